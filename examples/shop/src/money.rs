//! Money: whole euro cents, never a float.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount of euro cents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Cents(pub(crate) i64);

impl Cents {
    /// So many times the amount; `None` where no number can say it.
    pub(crate) fn times(self, quantity: i64) -> Option<Self> {
        self.0.checked_mul(quantity).map(Self)
    }
}

/// `€ 1234.05`.
impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, cents) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        write!(f, "€ {sign}{}.{:02}", cents / 100, cents % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::Cents;

    #[test]
    fn cents_are_shown_as_euros() {
        for (cents, want) in [(0, "€ 0.00"), (5, "€ 0.05"), (123_405, "€ 1234.05"), (-250, "€ -2.50")] {
            assert_eq!(Cents(cents).to_string(), want);
        }
    }

    #[test]
    fn what_no_number_can_say_is_no_amount() {
        assert_eq!(Cents(250).times(4), Some(Cents(1000)));
        assert_eq!(Cents(i64::MAX).times(2), None);
    }
}
