"""Changes that come by API: planned, checked, stored, remembered."""
