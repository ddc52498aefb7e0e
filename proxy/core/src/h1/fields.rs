//! One pass over the fields of a head: end-to-end fields go to the map, all others become facts.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, Entry, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::connection::{self, Options};
use super::error::HeadError;
use super::framing::{self, TransferCodings};
use super::spelling::Spelling;
use super::target;

/// Where a field lies in its section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldRange {
    name: (usize, usize),
    value: (usize, usize),
}

/// Ranges of a whole section. 32 inline: most heads have fewer.
pub(crate) type FieldRanges = SmallVec<[FieldRange; 32]>;

/// Where the parsed fields lie in `section`, so that the section can be split off its buffer and shared.
pub(crate) fn ranges(section: &[u8], fields: &[httparse::Header<'_>]) -> FieldRanges {
    fields
        .iter()
        .map(|field| FieldRange { name: range(section, field.name.as_bytes()), value: range(section, field.value) })
        .collect()
}

/// Where `part`, a slice of `section`, begins and ends.
pub(crate) fn range(section: &[u8], part: &[u8]) -> (usize, usize) {
    let start = part.as_ptr().addr().saturating_sub(section.as_ptr().addr());
    (start, start.saturating_add(part.len()))
}

/// The bytes of a range, shared. Empty for a range that is not in the section, which [`range`] does not make.
pub(crate) fn share(section: &Bytes, (start, end): (usize, usize)) -> Bytes {
    if start <= end && end <= section.len() { section.slice(start..end) } else { Bytes::new() }
}

impl FieldRange {
    pub(crate) fn name(self, section: &Bytes) -> &[u8] {
        section.get(self.name.0..self.name.1).unwrap_or_default()
    }

    fn value(self, section: &Bytes) -> &[u8] {
        section.get(self.value.0..self.value.1).unwrap_or_default()
    }

    /// The value, sharing the section's bytes.
    pub(crate) fn shared_value(self, section: &Bytes) -> Result<HeaderValue, HeadError> {
        HeaderValue::from_maybe_shared(share(section, self.value)).or(Err(HeadError::ControlInValue))
    }
}

/// Whose head it is: `Host` is special only in requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Request,
    Response,
}

/// What the fields said about the message and the connection.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) content_length: Option<u64>,
    pub(crate) expect_continue: bool,
    pub(crate) hosts: usize,
    pub(crate) options: Options,
    pub(crate) transfer: TransferCodings,
    /// Protocols offered or chosen, without those that are never passed on.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// The fields of a head, sorted.
#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) facts: Facts,
    pub(crate) headers: HeaderMap,
    pub(crate) spelling: Spelling,
}

/// Sorts the fields of `head` into `headers`, an empty map.
///
/// **Cost**: values share `head`; a name that `http` does not know costs one allocation, since `HeaderName` owns it.
pub(crate) fn collect(role: Role, head: &Bytes, ranges: &FieldRanges, headers: HeaderMap) -> Result<Fields, HeadError> {
    let mut fields = Fields { facts: Facts::default(), headers, spelling: Spelling::of(head) };
    fields.headers.reserve(ranges.len());
    for range in ranges {
        let name = HeaderName::from_bytes(range.name(head)).or(Err(HeadError::HeaderNameInvalid))?;
        if fields.keep(role, &name, *range, head)? {
            fields.spelling.push(range.name.0, range.name.1 - range.name.0);
            fields.headers.try_append(name, range.shared_value(head)?).or(Err(HeadError::TooManyHeaders))?;
        }
    }
    if fields.facts.options.names_fields {
        fields.remove_named(head, ranges);
    }
    if !fields.facts.options.upgrade {
        // Without the connection option it was not meant for us, or not for this hop (RFC 9110 §7.8).
        fields.facts.upgrade = None;
    }
    Ok(fields)
}

impl Fields {
    /// Notes what a field says, and whether it goes into the map as it is.
    fn keep(&mut self, role: Role, name: &HeaderName, range: FieldRange, head: &Bytes) -> Result<bool, HeadError> {
        let value = range.value(head);
        let facts = &mut self.facts;
        match name.as_str() {
            "connection" => facts.options.note(value),
            "content-length" => return self.content_length(range, head),
            "expect" => {
                facts.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
                return Ok(true);
            }
            "host" if role == Role::Request => {
                if !target::is_host(value) {
                    return Err(HeadError::HostInvalid);
                }
                facts.hosts += 1;
                return Ok(true);
            }
            "http2-settings" | "keep-alive" | "proxy-connection" => {}
            "te" => self.te(range, head),
            "transfer-encoding" => facts.transfer.note(value),
            "upgrade" => self.upgrade(range.shared_value(head)?),
            _ => return Ok(true),
        }
        Ok(false)
    }

    /// Equal duplicates become one (RFC 9110 §8.6); a number with leading zeros is written anew, since some read octal.
    fn content_length(&mut self, range: FieldRange, head: &Bytes) -> Result<bool, HeadError> {
        let value = range.value(head);
        let length = framing::content_length(value)?;
        match self.facts.content_length.replace(length) {
            Some(earlier) if earlier != length => return Err(HeadError::ContentLengthConflict),
            Some(_) => return Ok(false),
            None => {}
        }
        if value.len() > 1 && value.starts_with(b"0") {
            self.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            self.spelling.push(range.name.0, range.name.1 - range.name.0);
            return Ok(false);
        }
        Ok(true)
    }

    /// Keeps `trailers`, the one member that concerns the far end as well; codings are agreed per connection.
    fn te(&mut self, range: FieldRange, head: &Bytes) {
        if framing::accepts_trailers(range.value(head))
            && let Entry::Vacant(slot) = self.headers.entry(TE)
        {
            slot.insert(HeaderValue::from_static("trailers"));
            self.spelling.push(range.name.0, range.name.1 - range.name.0);
        }
    }

    fn upgrade(&mut self, value: HeaderValue) {
        let Some(value) = connection::retain_protocols(value, |protocol| !connection::is_http2(protocol)) else {
            return;
        };
        self.facts.upgrade = match self.facts.upgrade.take() {
            Some(earlier) => HeaderValue::from_bytes(&[earlier.as_bytes(), value.as_bytes()].join(&b", "[..])).ok(),
            None => Some(value),
        };
    }

    /// Removes what `Connection` names (RFC 9110 §7.6.1), before anybody adds fields of their own to the map.
    fn remove_named(&mut self, head: &Bytes, ranges: &FieldRanges) {
        for range in ranges.iter().filter(|range| range.name(head).eq_ignore_ascii_case(b"connection")) {
            for option in connection::list_members(range.value(head)) {
                let Ok(name) = HeaderName::from_bytes(option) else { continue };
                if connection::is_removable(&name) {
                    self.headers.remove(&name);
                }
            }
        }
    }
}

/// How often `Host` stands in the head is checked here, since HTTP/1.0 needs none (RFC 9112 §3.2).
pub(crate) const fn check_host_count(hosts: usize, required: bool) -> Result<(), HeadError> {
    match hosts {
        0 if required => Err(HeadError::HostMissing),
        0 | 1 => Ok(()),
        _ => Err(HeadError::HostDuplicate),
    }
}

/// `Host`, of which there is at most one by now.
pub(crate) fn host(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(HOST)
}
