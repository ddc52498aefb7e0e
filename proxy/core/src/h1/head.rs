//! Heads: what they hold, and reading them from a buffer.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use httparse::Status;

use super::attempt::Attempt;
use super::connection::retain_protocols;
use super::error::HeadError;
use super::fields::{self, Facts, FieldRanges, Fields, Role};
use super::spelling::Spelling;
use super::target::{self, TargetForm};
use super::{BodyLength, HEAD_BYTES_MAX, HEADERS_MAX, METHOD_BYTES_MAX, Persistence, Version, connection, diagnose};
use super::{is_bodyless, list_members};

/// A request's head.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method, known or not.
    pub method: Method,
    /// The target, in parts as far as its form has them. Every byte of it came from the wire.
    pub uri: Uri,
    /// The form that `uri` had and will be written in.
    pub form: TargetForm,
    /// The client's version; the request goes on in the same one, since only then can the client read the answer.
    pub version: Version,
    /// End-to-end fields, `Host` and a valid `Content-Length` included.
    pub headers: HeaderMap,
    /// How the names in `headers` were spelled.
    pub spelling: Spelling,
    /// The protocols that the client offers to switch to; never h2 or h2c.
    pub upgrade: Option<HeaderValue>,
    /// Where the body ends. What is written follows this, not `headers`.
    pub body: BodyLength,
    /// The client waits for 100 before it sends the body (RFC 9110 §10.1.1).
    pub expect_continue: bool,
    /// Whether the client will use the connection again.
    pub persistence: Persistence,
}

/// A response's head.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status, from 100 to 999.
    pub status: StatusCode,
    /// The reason phrase as it was written, maybe empty, maybe not UTF-8.
    pub reason: Bytes,
    /// The server's version. We answer in our own (RFC 9112 §2.3).
    pub version: Version,
    /// End-to-end fields. `Content-Length` stays where it describes what GET would have brought (HEAD, 304).
    pub headers: HeaderMap,
    /// How the names in `headers` were spelled.
    pub spelling: Spelling,
    /// The protocol switched to with 101, or protocols that the server offers.
    pub upgrade: Option<HeaderValue>,
    /// Where the body ends. What is written follows this, not `headers`.
    pub body: BodyLength,
    /// Whether the server will use the connection again after this message.
    pub persistence: Persistence,
    /// After this head the connection is a tunnel: 101, or 2xx to CONNECT.
    pub is_tunnel: bool,
}

/// What of a request decides how its response is read (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug)]
pub struct AnswerTo<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The protocols that were offered; without them 101 is refused.
    pub upgrade: Option<&'a HeaderValue>,
}

impl RequestHead {
    /// Takes out the offered protocols for which `allowed` says no. Protocol names are case-insensitive here, as
    /// websocket's is in practice (RFC 9110 §7.8); with none left the request is an ordinary one.
    pub fn retain_upgrades(&mut self, allowed: impl Fn(&[u8]) -> bool) {
        self.upgrade = self.upgrade.take().and_then(|offered| retain_protocols(offered, allowed));
    }

    /// What the reader of the response needs to know.
    pub const fn answer_to(&self) -> AnswerTo<'_> {
        AnswerTo { method: &self.method, upgrade: self.upgrade.as_ref() }
    }
}

impl ResponseHead {
    /// Whether another head follows: 1xx, but not 101, which ends HTTP on the connection.
    pub fn is_informational(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// A head that the proxy itself writes.
    pub fn new(status: StatusCode, body: BodyLength) -> Self {
        Self {
            status,
            reason: Bytes::from_static(status.canonical_reason().unwrap_or_default().as_bytes()),
            version: Version::Http11,
            headers: HeaderMap::new(),
            spelling: Spelling::default(),
            upgrade: None,
            body,
            persistence: Persistence::KeepAlive,
            is_tunnel: false,
        }
    }
}

/// Reads heads from one connection, in either role. Keep it for the connection's life: it remembers how much of an
/// unfinished head was looked at.
#[derive(Debug, Default)]
pub struct HeadReader {
    attempt: Attempt,
    /// One empty line was already passed over before this head.
    skipped_line: bool,
    /// An empty map that has room, see [`HeadReader::recycle`].
    spare: HeaderMap,
}

impl HeadReader {
    /// Takes back a map whose head was dealt with, so that the next head does not allocate one.
    pub fn recycle(&mut self, mut headers: HeaderMap) {
        headers.clear();
        self.spare = headers;
    }

    /// Whether a head has begun in `buf`; for a server, "idle" ends here.
    pub fn has_begun(&self, buf: &[u8]) -> bool {
        buf.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// Takes a request's head off `buf`, or leaves `buf` and answers `None` when it is not complete.
    ///
    /// # Errors
    /// Any [`HeadError`]: answer with its status and close, nothing after it can be trusted.
    pub fn read_request(&mut self, buf: &mut BytesMut) -> Result<Option<RequestHead>, HeadError> {
        if !self.skip_empty_line(buf)? || !self.attempt.is_due(window(buf)) {
            return self.wait_for_more(buf);
        }
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let section = window(buf);
        let head_bytes = match request.parse_with_uninit_headers(section, &mut slots) {
            Ok(Status::Complete(head_bytes)) => head_bytes,
            Ok(Status::Partial) => {
                self.attempt.was_partial(section.len());
                return self.wait_for_more(buf);
            }
            Err(error) => return Err(diagnose::request(section, error)),
        };
        let method = method(request.method.unwrap_or_default())?;
        let version = version(request.version)?;
        let target = fields::range(section, request.path.unwrap_or_default().as_bytes());
        let ranges = fields::ranges(section, request.headers);
        let (head, fields) = self.take(Role::Request, buf, head_bytes, &ranges)?;
        let (form, uri) = target::parse(&method, fields::share(&head, target))?;
        fields::check_host_count(fields.facts.hosts, version == Version::Http11)?;
        if form != TargetForm::Origin {
            target::check_agreement(form, &uri, fields::host(&fields.headers))?;
        }
        request_head(method, form, uri, version, fields).map(Some)
    }

    /// Takes a response's head off `buf`, or leaves `buf` and answers `None` when it is not complete. Informational
    /// responses come one by one; bound how many of them a server may send.
    ///
    /// # Errors
    /// Any [`HeadError`]: the upstream broke the protocol; the connection must not be used again.
    pub fn read_response(&mut self, buf: &mut BytesMut, to: &AnswerTo<'_>) -> Result<Option<ResponseHead>, HeadError> {
        // Only requests may follow an empty line (RFC 9112 §2.2).
        if matches!(buf.first(), Some(b'\r' | b'\n')) {
            return Err(HeadError::StatusLineInvalid);
        }
        if !self.attempt.is_due(window(buf)) {
            return self.wait_for_more(buf);
        }
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let section = window(buf);
        let config = httparse::ParserConfig::default();
        let head_bytes = match config.parse_response_with_uninit_headers(&mut response, section, &mut slots) {
            Ok(Status::Complete(head_bytes)) => head_bytes,
            Ok(Status::Partial) => {
                self.attempt.was_partial(section.len());
                return self.wait_for_more(buf);
            }
            Err(error) => return Err(diagnose::response(section, error)),
        };
        let version = version(response.version)?;
        let status = StatusCode::from_u16(response.code.unwrap_or_default()).or(Err(HeadError::StatusLineInvalid))?;
        let ranges = fields::ranges(section, response.headers);
        let (head, fields) = self.take(Role::Response, buf, head_bytes, &ranges)?;
        response_head(status, reason(&head), version, fields, to).map(Some)
    }

    /// Splits a complete head off the buffer and sorts its fields.
    fn take(
        &mut self,
        role: Role,
        buf: &mut BytesMut,
        head_bytes: usize,
        ranges: &FieldRanges,
    ) -> Result<(Bytes, Fields), HeadError> {
        self.attempt = Attempt::default();
        self.skipped_line = false;
        let head = buf.split_to(head_bytes).freeze();
        let fields = fields::collect(role, &head, ranges, std::mem::take(&mut self.spare))?;
        Ok((head, fields))
    }

    /// `None`, unless the limit is reached already.
    fn wait_for_more<T>(&self, buf: &[u8]) -> Result<Option<T>, HeadError> {
        if buf.len() < HEAD_BYTES_MAX {
            return Ok(None);
        }
        let has_line = window(buf).contains(&b'\n');
        Err(if has_line { HeadError::HeadTooLarge } else { HeadError::TargetTooLong })
    }

    /// Passes over one empty line before a request (RFC 9112 §2.2: old clients end a body with one). Answers whether
    /// the head's first byte is there.
    fn skip_empty_line(&mut self, buf: &mut BytesMut) -> Result<bool, HeadError> {
        let line = match (buf.first(), buf.get(1)) {
            (Some(b'\n'), _) => 1,
            (Some(b'\r'), Some(b'\n')) => 2,
            (Some(b'\r'), Some(_)) => return Err(HeadError::BareCr),
            (Some(b'\r'), None) | (None, _) => return Ok(false),
            (Some(_), _) => return Ok(true),
        };
        if std::mem::replace(&mut self.skipped_line, true) {
            return Err(HeadError::EmptyLines);
        }
        buf.advance(line);
        self.skip_empty_line(buf)
    }
}

/// As much of the buffer as a head may fill; pipelined requests may lie behind it.
fn window(buf: &[u8]) -> &[u8] {
    buf.get(..HEAD_BYTES_MAX).unwrap_or(buf)
}

fn method(token: &str) -> Result<Method, HeadError> {
    if token.len() > METHOD_BYTES_MAX {
        return Err(HeadError::MethodInvalid);
    }
    Method::from_bytes(token.as_bytes()).or(Err(HeadError::MethodInvalid))
}

const fn version(minor: Option<u8>) -> Result<Version, HeadError> {
    match minor {
        Some(0) => Ok(Version::Http10),
        Some(1) => Ok(Version::Http11),
        _ => Err(HeadError::VersionUnsupported),
    }
}

/// The bytes between the status code and the end of the line. `httparse` gives none where one is above ASCII.
fn reason(head: &Bytes) -> Bytes {
    const BEFORE_REASON: usize = "HTTP/1.1 200 ".len();
    let end = head.iter().position(|byte| *byte == b'\n').unwrap_or_default();
    let line = head.slice(..end);
    let end = line.strip_suffix(b"\r").map_or(end, <[u8]>::len);
    if end > BEFORE_REASON { line.slice(BEFORE_REASON..end) } else { Bytes::new() }
}

fn request_head(
    method: Method,
    form: TargetForm,
    uri: Uri,
    version: Version,
    fields: Fields,
) -> Result<RequestHead, HeadError> {
    let Fields { facts, mut headers, spelling } = fields;
    let chunked = facts.transfer.is_chunked()?;
    let body = match (chunked, facts.content_length) {
        (true, _) if version == Version::Http10 => return Err(HeadError::TransferEncodingInHttp10),
        // RFC 9112 §6.1 lets us drop the length; a request that two readers split differently is not worth saving.
        (true, Some(_)) => return Err(HeadError::ContentLengthWithTransferEncoding),
        (true, None) => BodyLength::Chunked,
        (false, Some(length)) => BodyLength::Known(length),
        (false, None) => BodyLength::None,
    };
    let body = if form == TargetForm::Authority {
        if !body.is_empty() {
            return Err(HeadError::ConnectWithContent);
        }
        headers.remove(CONTENT_LENGTH);
        BodyLength::None
    } else {
        body
    };
    let is_http11 = version == Version::Http11;
    Ok(RequestHead {
        method,
        uri,
        form,
        version,
        headers,
        spelling,
        // RFC 9110 §7.8 and §10.1.1: both are ignored in HTTP/1.0.
        upgrade: facts.upgrade.filter(|_| is_http11),
        body,
        expect_continue: facts.expect_continue && is_http11,
        persistence: persistence(version, facts.options),
    })
}

fn response_head(
    status: StatusCode,
    reason: Bytes,
    version: Version,
    fields: Fields,
    to: &AnswerTo<'_>,
) -> Result<ResponseHead, HeadError> {
    let Fields { facts, mut headers, spelling } = fields;
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    if is_switch && !is_switch_asked(facts.upgrade.as_ref(), to.upgrade) {
        return Err(HeadError::SwitchUnasked);
    }
    let is_tunnel = is_switch || (to.method == Method::CONNECT && status.is_success());
    let (body, is_doubtful) = response_body(status, version, &facts, is_tunnel, to)?;
    if is_tunnel || status.is_informational() || status == StatusCode::NO_CONTENT || body == BodyLength::Chunked {
        // RFC 9110 §8.6: no length where there is no content to have one; RFC 9112 §6.3: chunked overrides it.
        headers.remove(CONTENT_LENGTH);
    }
    let persistence = if body == BodyLength::UntilClose || is_doubtful || is_tunnel {
        Persistence::Close
    } else {
        persistence(version, facts.options)
    };
    // An offer in 1xx would have to be kept for the final head, which repeats it when it still holds.
    let upgrade = facts.upgrade.filter(|_| is_switch || !status.is_informational());
    Ok(ResponseHead { status, reason, version, headers, spelling, upgrade, body, persistence, is_tunnel })
}

/// RFC 9112 §6.3, in its order; and whether the framing is said twice, so that the connection must not be used again.
fn response_body(
    status: StatusCode,
    version: Version,
    facts: &Facts,
    is_tunnel: bool,
    to: &AnswerTo<'_>,
) -> Result<(BodyLength, bool), HeadError> {
    let chunked = facts.transfer.is_chunked()?;
    if chunked && version == Version::Http10 {
        return Err(HeadError::TransferEncodingInHttp10);
    }
    let is_doubtful = chunked && facts.content_length.is_some();
    if is_tunnel || is_bodyless(status) || to.method == Method::HEAD {
        return Ok((BodyLength::None, is_doubtful));
    }
    let body = match facts.content_length {
        _ if chunked => BodyLength::Chunked,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::UntilClose,
    };
    Ok((body, is_doubtful))
}

/// Whether every protocol of a 101 was offered.
fn is_switch_asked(chosen: Option<&HeaderValue>, offered: Option<&HeaderValue>) -> bool {
    let (Some(chosen), Some(offered)) = (chosen, offered) else { return false };
    list_members(chosen.as_bytes())
        .all(|protocol| list_members(offered.as_bytes()).any(|offer| offer.eq_ignore_ascii_case(protocol)))
}

/// RFC 9112 §9.3.
const fn persistence(version: Version, options: connection::Options) -> Persistence {
    match (options.persistence, version) {
        (Some(asked), _) => asked,
        (None, Version::Http10) => Persistence::Close,
        (None, Version::Http11) => Persistence::KeepAlive,
    }
}

#[cfg(test)]
mod tests;
