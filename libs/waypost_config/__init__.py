"""Resources to configuration, without I/O: models, validation, manifest reader, compiler, conditions."""
