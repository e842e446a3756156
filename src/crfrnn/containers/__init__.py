"""Large and special files: rasters, volumes and annotations, read and refined window by window."""
