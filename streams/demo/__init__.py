"""`weir demo`: the whole service on one machine, with embedded servers and text that Weir ships."""
