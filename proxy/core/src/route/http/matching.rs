//! Compares headers and query parameters with what a match asks for, without allocating.

use http::{HeaderMap, HeaderName};

/// Whether the fields of `name`, joined by `,` (RFC 9110 §5.3), are exactly `want`. Without any there is no match.
pub(super) fn header_equals(headers: &HeaderMap, name: &HeaderName, want: &str) -> bool {
    let mut fields = headers.get_all(name).iter();
    let Some(first) = fields.next() else { return false };
    let Some(mut rest) = want.as_bytes().strip_prefix(first.as_bytes()) else { return false };
    for field in fields {
        let after = rest.strip_prefix(b",").and_then(|rest| rest.strip_prefix(field.as_bytes()));
        let Some(after) = after else { return false };
        rest = after;
    }
    rest.is_empty()
}

/// Whether the first parameter called `name` is exactly `want`, both percent-decoded. `+` is itself: a query is a
/// query before it is a form.
pub(super) fn query_equals(query: &str, name: &str, want: &str) -> bool {
    let mut params = query.split('&').map(|param| param.split_once('=').unwrap_or((param, "")));
    let first = params.find(|(key, _)| decodes_to(key, name));
    first.is_some_and(|(_, value)| decodes_to(value, want))
}

/// Whether a path is `/{service}/{method}` of that method (gRPC's `doc/PROTOCOL-HTTP2.md`).
pub(super) fn grpc_method_is(path: &str, method: &str) -> bool {
    let Some((service, asked)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else { return false };
    !service.is_empty() && asked == method
}

/// Whether `encoded` is `want` once decoded. A `%` without two digits is itself.
fn decodes_to(encoded: &str, want: &str) -> bool {
    if !encoded.contains('%') {
        return encoded == want;
    }
    let mut encoded = encoded.as_bytes();
    let mut want = want.bytes();
    while let Some((&b, rest)) = encoded.split_first() {
        let (decoded, rest) = match rest {
            [high, low, after @ ..] if b == b'%' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b, rest),
            },
            _ => (b, rest),
        };
        if want.next() != Some(decoded) {
            return false;
        }
        encoded = rest;
    }
    want.next().is_none()
}

fn hex(b: u8) -> Option<u8> {
    char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::{header_equals, query_equals};
    use http::{HeaderMap, HeaderName, HeaderValue};

    #[test]
    fn fields_of_one_name_are_joined() {
        for (fields, want, equal) in [
            (&["a"][..], "a", true),
            (&["a"], "A", false),
            (&["a"], "ab", false),
            (&["ab"], "a", false),
            (&["a", "b"], "a,b", true),
            (&["a", "b"], "a, b", false),
            (&["a", "b"], "a", false),
            (&["a,b"], "a,b", true),
            (&["", ""], ",", true),
            (&[""], "", true),
            (&[], "", false),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append("x-test", HeaderValue::from_static(field));
            }
            assert_eq!(header_equals(&headers, &HeaderName::from_static("x-test"), want), equal, "{fields:?} {want:?}");
        }
    }

    #[test]
    fn the_first_parameter_counts_and_is_decoded() {
        for (query, name, want, equal) in [
            ("a=1", "a", "1", true),
            ("a=1&a=2", "a", "2", false),
            ("b=0&a=1", "a", "1", true),
            ("a", "a", "", true),
            ("a=", "a", "", true),
            ("", "a", "", false),
            ("ab=1", "a", "1", false),
            ("a=b=c", "a", "b=c", true),
            ("a=%62%C3%A9", "a", "bé", true),
            ("%61=1", "a", "1", true),
            ("a=x+y", "a", "x y", false),
            ("a=x%20y", "a", "x y", true),
            ("a=%zz", "a", "%zz", true),
            ("a=%4", "a", "%4", true),
            ("a=%41", "a", "A1", false),
            ("a=%", "a", "", false),
            ("a=1;b=2", "b", "2", false),
        ] {
            assert_eq!(query_equals(query, name, want), equal, "{query:?} {name:?} {want:?}");
        }
    }
}
