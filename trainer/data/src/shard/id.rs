//! Ids of images and texts. Never judges whether an id is used twice.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The number of an image or a text, or its name in a data set that does not number them.
///
/// # Guarantees
/// Digits are the number that they make, however they are written down: `"7"` and `7` are one. Numbers
/// come before names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum ItemId {
    /// A whole number, as the reference has them.
    Number(u64),
    /// Anything else, such as the name of a file.
    Name(Box<str>),
}

impl ItemId {
    /// The id that a text writes; `None` if the text is empty.
    pub fn parse(text: &str) -> Option<Self> {
        // Only what is printed as it was written is a number: "007" and "+7" are names, or two ids would become one.
        let number = text
            .parse()
            .ok()
            .filter(|number: &u64| number.to_string() == text);

        match number {
            Some(number) => Some(Self::Number(number)),
            None => (!text.is_empty()).then(|| Self::Name(text.into())),
        }
    }
}

impl From<u64> for ItemId {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(to),
            Self::Name(name) => name.fmt(to),
        }
    }
}

impl<'de> Deserialize<'de> for ItemId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ItemIdVisitor)
    }
}

struct ItemIdVisitor;

impl Visitor<'_> for ItemIdVisitor {
    type Value = ItemId;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a whole number from 0 or a name")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<ItemId, E> {
        Ok(ItemId::Number(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<ItemId, E> {
        let unfit = |_| E::invalid_value(Unexpected::Signed(number), &self);
        u64::try_from(number).map(ItemId::Number).map_err(unfit)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ItemId, E> {
        ItemId::parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_numbers_everything_else_is_a_name_and_nothing_is_neither() {
        let name = |text: &str| ItemId::Name(text.into());
        let rows = [
            ("7", Some(ItemId::Number(7))),
            ("\"7\"", Some(ItemId::Number(7))),
            ("\"007\"", Some(name("007"))),
            ("\"+7\"", Some(name("+7"))),
            ("\"猫.jpg\"", Some(name("猫.jpg"))),
            ("18446744073709551615", Some(ItemId::Number(u64::MAX))),
            (
                "\"18446744073709551616\"",
                Some(name("18446744073709551616")),
            ),
            ("\"\"", None),
            ("-7", None),
            ("7.5", None),
            ("null", None),
        ];

        for (json, right) in rows {
            assert_eq!(serde_json::from_str::<ItemId>(json).ok(), right, "{json}");
        }

        assert!(ItemId::from(u64::MAX) < name("0"));
        let json = serde_json::to_string(&[ItemId::from(7), name("007")]).unwrap();
        assert_eq!(json, "[7,\"007\"]");
    }
}
