"""The registry's database, by the name of the setting that holds its address."""

from retinue_kit.mongodb import MongoDb

DATABASE = MongoDb("RETINUE_REGISTRY_STORE", "retinue_registry")

translated = DATABASE.translated
