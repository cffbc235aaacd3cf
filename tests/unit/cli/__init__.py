"""Tests of the `retinue` command without services, or with a made-up one."""
