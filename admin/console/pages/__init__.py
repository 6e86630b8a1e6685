"""The pages of the console: one module for each room of the site's menu."""
