"""A ComfyUI model as a host of the library."""
