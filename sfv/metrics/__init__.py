"""Video metrics with passports: how good, how consistent, how it was measured."""
