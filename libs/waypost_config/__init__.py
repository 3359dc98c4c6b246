"""Resources to configuration, without I/O but reading files: models, validation, manifests, compiler, conditions.

Its public parts are `check.check`, `manifests.load` and `read`, `compiler.compile_manifests`, `status`, `table.table`,
`crd.definitions`, `writer.dump` and `devtoken`. Nothing is imported here: who shows statuses needs no YAML reader.
"""
