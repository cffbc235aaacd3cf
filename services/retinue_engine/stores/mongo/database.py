"""The engine's database, by the name of the setting that holds its address."""

from retinue_kit.mongodb import MongoDb

DATABASE = MongoDb("RETINUE_STORE", "retinue")

translated = DATABASE.translated
