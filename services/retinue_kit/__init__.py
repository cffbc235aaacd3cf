"""What every service needs and none owns: settings, server, errors on the wire, logs, metrics, secrets."""
