//! Texts that are put into objects. Each type takes only what makes sense there, and none takes what could end a quoted YAML string.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use weft_model::identity::is_dns_subdomain;

/// A text that we wrote ourselves.
pub(super) trait Fixed {
    /// It, unread.
    fn of(text: &str) -> Self;
}

/// Makes a type of text: what it is, the same for Helm as a pattern (which may take a little more), and what is said of another text.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $pattern:literal, $is:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Fixed for $name {
            fn of(text: &str) -> Self {
                debug_assert!(($is)(text), "{text}");
                Self(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                if ($is)(&text) { Ok(Self(text)) } else { Err(format!(concat!("{:?} is not ", $expected), text)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern})
            }
        }
    };
}

text!(
    /// An image, as a node pulls it.
    Image,
    "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$",
    is_image,
    "the name of an image, such as registry.example/weft/proxy:0.1.0"
);
text!(
    /// The trust domain of every identity.
    TrustDomain,
    "^[a-z0-9._-]{1,255}$",
    |text: &str| text.parse::<weft_model::TrustDomain>().is_ok(),
    "a trust domain: lower-case letters, digits, '.', '-' and '_'"
);
text!(
    /// The name of another object.
    Name,
    "^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$",
    is_dns_subdomain,
    "a name: lower-case letters, digits, '-' and '.'"
);
text!(
    /// The name of another object, or nothing where there is none.
    NameOrNone,
    "^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$",
    |text: &str| text.is_empty() || is_dns_subdomain(text),
    "a name: lower-case letters, digits, '-' and '.'; or nothing"
);
text!(
    /// What is logged: a level, or `target=level` pairs.
    LogFilter,
    "^[A-Za-z0-9_:=,.-]+$",
    |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:=,.-".contains(&b)),
    "a log level or filter, such as debug or info,weft_index=debug"
);
text!(
    /// A length of time, as Gateway API writes it.
    Period,
    "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
    |text: &str| weft_crds::parse_duration(text).is_ok(),
    "a length of time, such as 24h or 1h30m"
);
text!(
    /// A network.
    Cidr,
    "^[0-9a-fA-F.:]+/[0-9]{1,3}$",
    |text: &str| text.parse::<ipnet::IpNet>().is_ok(),
    "a network, such as 10.0.0.0/8"
);

text!(
    /// A directory of a node.
    Directory,
    "^(/[A-Za-z0-9._-]+)+$",
    is_directory,
    "a directory of a node, such as /opt/cni/bin"
);

fn is_directory(text: &str) -> bool {
    let is_name = |name: &str| {
        !matches!(name, "" | "." | "..") && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    text.strip_prefix('/').is_some_and(|names| names.split('/').all(is_name))
}

fn is_image(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@-".contains(&b))
}

/// An amount of a resource, as Kubernetes writes it: `100m`, `64Mi`, `2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawQuantity", untagged)]
pub enum Quantity {
    /// With a unit, or quoted.
    Text(String),
    /// A number as it is.
    Number(u64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawQuantity {
    Text(String),
    Number(u64),
    Other(serde_json::Value),
}

const UNITS: [&str; 11] = ["", "m", "k", "Ki", "M", "Mi", "G", "Gi", "T", "Ti", "P"];

impl TryFrom<RawQuantity> for Quantity {
    type Error = String;

    fn try_from(raw: RawQuantity) -> Result<Self, String> {
        let refused = |text: &str| format!("{text} is not a quantity, such as 100m or 64Mi");
        match raw {
            RawQuantity::Number(number) => Ok(Self::Number(number)),
            RawQuantity::Text(text) => {
                let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
                let (number, unit) = text.split_at(end);
                let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
                let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
                let is = digits(whole) && digits(fraction) && UNITS.contains(&unit);
                if is { Ok(Self::Text(text)) } else { Err(refused(&format!("{text:?}"))) }
            }
            RawQuantity::Other(other) => Err(refused(&other.to_string())),
        }
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let pattern = "^[0-9]+(\\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P)?$";
        json_schema!({"anyOf": [{"type": "string", "pattern": pattern}, {"type": "integer", "minimum": 0}]})
    }
}
