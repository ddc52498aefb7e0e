use bytes::BytesMut;
use http::HeaderMap;

use super::{BodyDecoder, BodyEncoder, Frame};
use crate::h1::{BodyError, BodyLength, CHUNK_EXTENSION_BYTES_MAX, HEADERS_MAX, HeadError, TRAILER_BYTES_MAX};

/// Decodes until the end or for want of bytes: payload, trailers, whether the end came, what is left.
fn decode(length: BodyLength, bytes: &[u8]) -> Result<(Vec<u8>, HeaderMap, bool, BytesMut), BodyError> {
    let mut decoder = BodyDecoder::new(length);
    let mut buf = BytesMut::from(bytes);
    let (mut payload, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = decoder.decode(&mut buf)? {
        match frame {
            Frame::Data(data) => {
                assert!(!data.is_empty());
                payload.extend_from_slice(&data);
            }
            Frame::Trailers(fields) => trailers = fields,
            Frame::End => return Ok((payload, trailers, true, buf)),
        }
    }
    assert!(!decoder.is_end());
    Ok((payload, trailers, false, buf))
}

#[test]
fn well_formed_chunks_are_read() {
    let cases: &[(&str, &str)] = &[
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("A\r\n0123456789\r\n00\r\n\r\n", "0123456789"),
        ("0000000000000005\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5;a=b;c=\"d;e\"\r\nhello\r\n0;z\r\n\r\n", "hello"),
        ("5 \t\r\nhello\r\n0 ; x\r\n\r\n", "hello"),
        ("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc"),
    ];
    for (bytes, payload) in cases {
        let input = format!("{bytes}GET");
        let (read, trailers, is_end, rest) = decode(BodyLength::Chunked, input.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), *payload, "{bytes:?}");
        assert!(is_end && trailers.is_empty());
        assert_eq!(rest, "GET", "{bytes:?}");
    }
}

#[test]
fn malformed_chunks_are_refused_by_name() {
    use BodyError as E;
    let cases: &[(&str, E)] = &[
        ("\r\n", E::ChunkSizeInvalid),
        ("x\r\n", E::ChunkSizeInvalid),
        ("-1\r\n", E::ChunkSizeInvalid),
        ("+1\r\n", E::ChunkSizeInvalid),
        (" 1\r\n", E::ChunkSizeInvalid),
        ("0x1\r\n", E::ChunkSizeInvalid),
        ("1 1\r\n", E::ChunkSizeInvalid),
        ("1_0\r\n", E::ChunkSizeInvalid),
        (";a\r\n", E::ChunkSizeInvalid),
        ("1\n", E::ChunkSizeInvalid),
        ("1\0\r\n", E::ChunkSizeInvalid),
        ("10000000000000000\r\n", E::ChunkSizeOverflow),
        ("fffffffffffffffff\r\n", E::ChunkSizeOverflow),
        ("1\rx", E::ChunkExtensionInvalid),
        ("1;a\nb\r\n", E::ChunkExtensionInvalid),
        ("1;a\rb\r\n", E::ChunkExtensionInvalid),
        ("1;a\0\r\n", E::ChunkExtensionInvalid),
        ("1\r\nab\r\n", E::ChunkEndInvalid),
        ("1\r\na\n", E::ChunkEndInvalid),
        ("1\r\na\rx", E::ChunkEndInvalid),
        ("0\r\n\n", E::TrailerInvalid(HeadError::BareLf)),
        ("0\r\nX: 1\n\n", E::TrailerInvalid(HeadError::BareLf)),
        ("0\r\nX: 1\n\r\n", E::TrailerInvalid(HeadError::BareLf)),
        ("0\r\nX : 1\r\n\r\n", E::TrailerInvalid(HeadError::SpaceBeforeColon)),
        ("0\r\nX: 1\r\n 2\r\n\r\n", E::TrailerInvalid(HeadError::ObsFold)),
        ("0\r\nX: \0\r\n\r\n", E::TrailerInvalid(HeadError::Nul)),
        ("0\r\nX: a\rb\r\n\r\n", E::TrailerInvalid(HeadError::BareCr)),
        ("0\r\n\rx", E::TrailerInvalid(HeadError::BareCr)),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", E::TrailerInvalid(HeadError::HeaderNameInvalid)),
    ];
    for (bytes, expected) in cases {
        match decode(BodyLength::Chunked, bytes.as_bytes()) {
            Ok(read) => panic!("{bytes:?}: {read:?}"),
            Err(error) => assert_eq!(error, *expected, "{bytes:?}"),
        }
    }
}

#[test]
fn the_largest_size_does_not_overflow() {
    let (payload, _, is_end, _) = decode(BodyLength::Chunked, b"ffffffffffffffff\r\nabc").unwrap();
    assert_eq!((payload.as_slice(), is_end), (&b"abc"[..], false));
}

#[test]
fn trailers_pass_announced_or_not_without_those_that_frame_or_route() {
    let bytes = b"1\r\na\r\n0\r\nX-Sum: 1\r\ngrpc-status: 0\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\
        Host: b\r\nConnection: x\r\nAuthorization: y\r\nTrailer: z\r\n\r\n";
    let (payload, trailers, is_end, _) = decode(BodyLength::Chunked, bytes).unwrap();
    let names: Vec<_> = trailers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!((payload.as_slice(), is_end), (&b"a"[..], true));
    assert_eq!(names, ["x-sum", "grpc-status"]);
}

#[test]
fn trailers_and_extensions_are_bounded() {
    let many = format!("0\r\n{}\r\n", "X: 1\r\n".repeat(HEADERS_MAX + 1));
    assert_eq!(decode(BodyLength::Chunked, many.as_bytes()).unwrap_err(), BodyError::TrailersTooLarge);
    let large = format!("0\r\nX: {}", "y".repeat(TRAILER_BYTES_MAX));
    assert_eq!(decode(BodyLength::Chunked, large.as_bytes()).unwrap_err(), BodyError::TrailersTooLarge);
    let free = usize::try_from(CHUNK_EXTENSION_BYTES_MAX).unwrap();
    let extended = |bytes: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(bytes - 1));
    assert!(decode(BodyLength::Chunked, extended(free).as_bytes()).unwrap().2);
    assert_eq!(
        decode(BodyLength::Chunked, extended(free + 1).as_bytes()).unwrap_err(),
        BodyError::ChunkExtensionsTooLarge
    );
    let paid = "10;sig=0123456789\r\n0123456789abcdef\r\n".repeat(10_000);
    assert!(decode(BodyLength::Chunked, paid.as_bytes()).is_ok());
    let unpaid = "1;sig=0123456789\r\n0\r\n".repeat(10_000);
    assert_eq!(decode(BodyLength::Chunked, unpaid.as_bytes()).unwrap_err(), BodyError::ChunkExtensionsTooLarge);
}

#[test]
fn a_known_length_takes_exactly_its_bytes() {
    let (payload, _, is_end, rest) = decode(BodyLength::Known(3), b"abcdef").unwrap();
    assert_eq!((payload.as_slice(), is_end, &rest[..]), (&b"abc"[..], true, &b"def"[..]));
    let (payload, _, is_end, _) = decode(BodyLength::Known(u64::MAX), b"abc").unwrap();
    assert_eq!((payload.as_slice(), is_end), (&b"abc"[..], false));
    for length in [BodyLength::None, BodyLength::Known(0)] {
        let (_, _, is_end, rest) = decode(length, b"next").unwrap();
        assert!(is_end && rest == "next");
    }
}

#[test]
fn the_end_is_known_with_the_last_byte() {
    let mut decoder = BodyDecoder::new(BodyLength::Known(2));
    decoder.decode(&mut BytesMut::from(&b"ab"[..])).unwrap();
    assert!(decoder.is_end());
}

#[test]
fn a_cut_is_not_an_end() {
    let cut_before = |length: BodyLength, bytes: &[u8]| {
        let mut decoder = BodyDecoder::new(length);
        let mut buf = BytesMut::from(bytes);
        while let Some(frame) = decoder.decode(&mut buf).unwrap() {
            if frame == Frame::End {
                break;
            }
        }
        decoder.end_of_stream()
    };
    let whole = b"5\r\nhello\r\n0\r\nX: 1\r\n\r\n";
    for len in 0..whole.len() {
        assert_eq!(cut_before(BodyLength::Chunked, &whole[..len]), Err(BodyError::Truncated), "{len}");
    }
    assert_eq!(cut_before(BodyLength::Chunked, whole), Ok(()));
    assert_eq!(cut_before(BodyLength::Known(3), b"ab"), Err(BodyError::Truncated));
    assert_eq!(cut_before(BodyLength::Known(3), b"abc"), Ok(()));
    assert_eq!(cut_before(BodyLength::UntilClose, b"ab"), Ok(()));
}

#[test]
fn the_encoder_holds_the_sender_to_its_word() {
    let mut out = BytesMut::new();
    let mut short = BodyEncoder::new(BodyLength::Known(3));
    short.data(b"ab", &mut out).unwrap();
    assert!(!short.is_complete());
    assert_eq!(short.finish(None, &mut out), Err(BodyError::Truncated));
    let mut long = BodyEncoder::new(BodyLength::Known(3));
    long.data(b"abc", &mut out).unwrap();
    assert!(long.is_complete());
    assert_eq!(long.data(b"d", &mut out), Err(BodyError::Overrun));
    assert_eq!(BodyEncoder::new(BodyLength::None).data(b"d", &mut out), Err(BodyError::Overrun));
    let mut done = BodyEncoder::new(BodyLength::Chunked);
    done.finish(None, &mut out).unwrap();
    assert_eq!(done.data(b"d", &mut out), Err(BodyError::Overrun));
}

#[test]
fn chunks_are_written_as_they_come_and_an_empty_one_is_not() {
    let mut out = BytesMut::new();
    let mut encoder = BodyEncoder::new(BodyLength::Chunked);
    encoder.data(b"", &mut out).unwrap();
    encoder.data(&[b'x'; 26], &mut out).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    trailers.insert("content-length", "1".parse().unwrap());
    encoder.finish(Some(&trailers), &mut out).unwrap();
    assert_eq!(out, "1a\r\nxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n0\r\nx-sum: 1\r\n\r\n");
    for (len, line) in [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (0x1_0000, "10000\r\n"), (usize::MAX, "")] {
        let frame = BodyEncoder::new(BodyLength::Chunked).frame(len).unwrap();
        assert!(frame.before().starts_with(line.as_bytes()) && frame.before().len() <= 18, "{len}");
    }
}
