//! Bodies: no panic, the same frames in any segmentation, and what was read is what the next reader reads.
#![no_main]

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use weft_proxy_core::h1::{BodyDecoder, BodyEncoder, BodyError, BodyLength, Frame};

/// What a body was: payload, trailers, whether its end was seen, bytes that belong to the next message.
type Read = (Vec<u8>, Option<HeaderMap>, bool, Vec<u8>);

fuzz_target!(|input: &[u8]| {
    let [choice, step, bytes @ ..] = input else { return };
    let length = match choice & 3 {
        0 | 1 => BodyLength::Chunked,
        2 => BodyLength::Known(u64::from(*choice) >> 2),
        _ => BodyLength::UntilClose,
    };
    let whole = read(length, bytes, bytes.len());
    let pieces = read(length, bytes, usize::from(*step));
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        // A mistake in an unfinished trailer section is seen sooner or later, but never taken for an end.
        (Err(_), Err(_) | Ok((_, _, false, _))) | (Ok((_, _, false, _)), Err(_)) => {}
        (whole, pieces) => panic!("{whole:?} against {pieces:?}"),
    }
    let Ok((payload, trailers, true, _)) = whole else { return };

    let mut wire = BytesMut::new();
    let mut encoder = BodyEncoder::new(length);
    for part in payload.chunks(usize::from(*step).max(1)) {
        encoder.data(part, &mut wire).expect("as much as was declared");
    }
    encoder.finish(trailers.as_ref(), &mut wire).expect("as much as was declared");
    wire.extend_from_slice(b"next");
    let (again, again_trailers, is_end, rest) = read(length, &wire, wire.len()).expect("what we wrote");
    assert!(is_end);
    assert_eq!((again, rest.as_slice()), (payload, &b"next"[..]));
    assert_eq!(again_trailers, trailers);
});

fn read(length: BodyLength, bytes: &[u8], step: usize) -> Result<Read, BodyError> {
    let mut decoder = BodyDecoder::new(length);
    let mut buf = BytesMut::new();
    let (mut payload, mut trailers) = (Vec::new(), None);
    let mut rest = Bytes::copy_from_slice(bytes);
    loop {
        while let Some(frame) = decoder.decode(&mut buf)? {
            match frame {
                Frame::Data(data) => {
                    assert!(!data.is_empty());
                    payload.extend_from_slice(&data);
                }
                Frame::Trailers(fields) => assert!(trailers.replace(fields).is_none()),
                Frame::End => {
                    assert!(decoder.is_end());
                    return Ok((payload, trailers, true, [Bytes::from(buf), rest].concat()));
                }
            }
        }
        if rest.is_empty() {
            return Ok((payload, trailers, false, Vec::new()));
        }
        buf.extend_from_slice(&rest.split_to(step.max(1).min(rest.len())));
    }
}
