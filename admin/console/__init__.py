"""The console, /admin/: what community managers look at."""
