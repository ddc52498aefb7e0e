//! Netlink messages and attributes as bytes, both ways. Knows their frame, not their meaning; never panics on input.

use crate::plan::Family;

/// The head of a netlink message: length, type, flags, sequence number, port.
const HEAD_BYTES: usize = 16;
/// The head that follows in netfilter's messages: family, version, resource.
const NETFILTER_HEAD_BYTES: usize = 4;
const ATTRIBUTE_HEAD_BYTES: usize = 4;
/// The two highest bits of an attribute's type are flags: nested, and in network byte order.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;
const ATTRIBUTE_NESTED: u16 = 0x8000;

const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;

/// What did not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// A message being written.
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Begins a message; `kind` holds subsystem and operation. The kernel takes `resource` as the subsystem of a batch.
    pub(super) fn new(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        Self { bytes }
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend(length16(ATTRIBUTE_HEAD_BYTES + value.len()).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.align();
    }

    /// Numbers inside attributes of `nf_tables` are in network byte order.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// An attribute that holds what `fill` writes.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | ATTRIBUTE_NESTED).to_ne_bytes());
        fill(self);
        let length = length16(self.bytes.len().saturating_sub(start));
        if let Some(field) = self.bytes.get_mut(start..start + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// The finished message.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(..4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self.bytes
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A rule of ours is at most some hundred bytes, so this never saturates; the kernel would refuse the message if it did.
fn length16(length: usize) -> u16 {
    debug_assert!(length <= usize::from(u16::MAX), "an attribute of {length} bytes");
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// A message that was read, without its head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received<'a> {
    kind: u16,
    flags: u16,
    pub(super) sequence: u32,
    payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// For an error, an acknowledgement or the end of a dump: its code, 0 or `-errno`. None for a message with data.
    pub(super) fn error_code(&self) -> Result<Option<i32>, Malformed> {
        if self.kind != TYPE_ERROR && self.kind != TYPE_DONE {
            return Ok(None);
        }
        let code = self.payload.first_chunk().ok_or(Malformed("an error without a code"))?;
        Ok(Some(i32::from_ne_bytes(*code)))
    }

    /// Whether the dump that this belongs to is not a picture of one moment.
    pub(super) const fn is_interrupted(&self) -> bool {
        self.flags & FLAG_DUMP_INTERRUPTED != 0
    }

    /// Subsystem and operation.
    pub(super) const fn kind(&self) -> u16 {
        self.kind
    }

    /// The address family of its table.
    pub(super) fn is_of(&self, family: Family) -> bool {
        self.payload.first() == Some(&family_number(family))
    }

    pub(super) fn attributes(&self) -> Attributes<'a> {
        Attributes { rest: self.payload.get(NETFILTER_HEAD_BYTES..).unwrap_or_default() }
    }
}

/// `NFPROTO_INET` and `NFPROTO_IPV4`.
pub(super) const fn family_number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ipv4 => 2,
    }
}

/// The messages of one datagram. Ends after the first that does not parse.
pub(super) fn split(datagram: &[u8]) -> impl Iterator<Item = Result<Received<'_>, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parsed = split_one(rest);
        rest = parsed.map_or(&[], |(_, after)| after);
        Some(parsed.map(|(received, _)| received))
    })
}

fn split_one(bytes: &[u8]) -> Result<(Received<'_>, &[u8]), Malformed> {
    let head: &[u8; HEAD_BYTES] = bytes.first_chunk().ok_or(Malformed("a message shorter than its head"))?;
    let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *head;
    let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    let payload = bytes.get(HEAD_BYTES..length).ok_or(Malformed("a message of impossible length"))?;
    let received = Received {
        kind: u16::from_ne_bytes([k0, k1]),
        flags: u16::from_ne_bytes([f0, f1]),
        sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        payload,
    };
    Ok((received, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Attributes one after the other, or inside another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) const fn inside(value: &'a [u8]) -> Self {
        Self { rest: value }
    }

    /// The value of the first attribute of this kind.
    pub(super) fn value(self, kind: u16) -> Result<Option<&'a [u8]>, Malformed> {
        for attribute in self {
            let (found, value) = attribute?;
            if found == kind {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    pub(super) fn nested(self, kind: u16) -> Result<Option<Self>, Malformed> {
        Ok(self.value(kind)?.map(Self::inside))
    }

    pub(super) fn number(self, kind: u16) -> Result<Option<u32>, Malformed> {
        let Some(value) = self.value(kind)? else {
            return Ok(None);
        };
        let bytes: [u8; 4] = value.try_into().ok().ok_or(Malformed("a number that is not of 4 bytes"))?;
        Ok(Some(u32::from_be_bytes(bytes)))
    }

    pub(super) fn text(self, kind: u16) -> Result<Option<&'a str>, Malformed> {
        let Some(value) = self.value(kind)? else {
            return Ok(None);
        };
        let bytes = value.strip_suffix(&[0]).unwrap_or(value);
        std::str::from_utf8(bytes).ok().map(Some).ok_or(Malformed("a name that is not UTF-8"))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = split_attribute(self.rest);
        self.rest = parsed.map_or(&[], |(_, _, after)| after);
        Some(parsed.map(|(kind, value, _)| (kind, value)))
    }
}

fn split_attribute(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), Malformed> {
    let [l0, l1, k0, k1] = *bytes.first_chunk().ok_or(Malformed("an attribute shorter than its head"))?;
    let length = usize::from(u16::from_ne_bytes([l0, l1]));
    let kind = u16::from_ne_bytes([k0, k1]) & ATTRIBUTE_TYPE_MASK;
    let value = bytes.get(ATTRIBUTE_HEAD_BYTES..length).ok_or(Malformed("an attribute of impossible length"))?;
    Ok((kind, value, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}
