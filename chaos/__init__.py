import warnings

# platformdirs, as containers have none; it is where PostgreSQL's wheel keeps its lock.
warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
