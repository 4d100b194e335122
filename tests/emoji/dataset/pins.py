"""The pinned versions and digests of all downloads, and the expected digests and sizes of the result."""

from typing import NamedTuple


class Package(NamedTuple):
    """One npm package, at one version, with the digest of its tarball."""

    name: str
    version: str
    sha512: str  # base64, as npm prints it

    @property
    def spec(self) -> str:
        """The package as an argument of npm."""
        return f"{self.name}@{self.version}"

    @property
    def file(self) -> str:
        """The name of the tarball that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


class Counts(NamedTuple):
    """The size of a split."""

    images: int
    texts: int
    pairs: int


GOOGLE = Package("emoji-datasource-google", "16.0.0",
                 "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==")
TWITTER = Package("emoji-datasource-twitter", "16.0.0",
                  "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==")
FLUENT_3D = Package("@lobehub/fluent-emoji-3d", "1.1.0",
                    "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==")
FLUENT_FLAT = Package("@iconify-json/fluent-emoji-flat", "1.2.6",
                      "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==")
OPENMOJI = Package("@iconify-json/openmoji", "1.2.29",
                   "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==")
EMOJIONE = Package("@iconify-json/emojione", "1.2.3",
                   "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==")
NOTO = Package("@iconify-json/noto", "1.2.9",
               "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==")
CLDR = Package("cldr-annotations-full", "48.2.0",
               "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==")
CLDR_DERIVED = Package("cldr-annotations-derived-full", "48.2.0",
                       "log62km+AOzI7n/NEuNNFV0mg9DWnt67EYCh1RwxZq9dyRuyteB586LT83Ke8TchEfnwI9cIk2P31zO4nTvZmw==")
PACKAGES = (GOOGLE, TWITTER, FLUENT_3D, FLUENT_FLAT, OPENMOJI, EMOJIONE, NOTO, CLDR, CLDR_DERIVED)

# Digests of the decoded pixels, so that another PNG encoder may compress them differently.
PIXELS = {
    "train": "76c6fd14887517a574415d24d2e55255445cae28aad08656eafb0dd5614adb74",
    "valid": "0b94d5a1e63089cec672f3368cd729a1506cccace71761cfe857647c840b49a9",
    "test": "df4ec406d02e2c1e2dd0a3848dd56a85e4e568a8324a530fb1de48c541961eaa",
}
COUNTS = {
    "zh": {"train": Counts(7188, 3797, 14340), "valid": Counts(1075, 1075, 1075), "test": Counts(1892, 1892, 1892)},
    "en": {"train": Counts(7188, 3795, 14332), "valid": Counts(1075, 1075, 1075), "test": Counts(1892, 1892, 1892)},
}
