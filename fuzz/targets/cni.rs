//! What the CNI plugin reads: any call is answered in JSON, a result is passed on as it came, a chain that we join and leave says what it
//! said, and options read the same when written again. The first byte chooses the call.
#![no_main]

use std::error::Error;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use weft_cni::chain::{Shape, is_same, joined, parted};
use weft_cni::plugin::{Network, answer};
use weft_init::Options;

struct Willing;

impl Network for Willing {
    fn set(&self, _namespace: &Path, options: &Options) -> Result<(), Box<dyn Error>> {
        assert_eq!(Options::from_annotation(&options.to_annotation()).as_ref(), Ok(options));
        Ok(())
    }

    fn check(&self, _namespace: &Path, _options: &Options) -> Result<(), Box<dyn Error>> {
        Err("it is not there".into())
    }
}

const COMMANDS: [&str; 7] = ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION", "OTHER"];

fuzz_target!(|data: &[u8]| {
    let Some((first, input)) = data.split_first() else { return };
    let command = COMMANDS[usize::from(*first) % COMMANDS.len()];
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some(command.to_owned()),
        _ => Some("/run/netns/pod".to_owned()),
    };
    let told = answer(&variable, input, &Willing);
    assert!(!told.is_error || !told.output.is_empty());
    if !told.output.is_empty() {
        let said: Value = serde_json::from_str(&told.output).expect("it is JSON");
        if told.is_error {
            assert!(said["code"].is_u64() && said["msg"].is_string(), "{said}");
        } else if command == "ADD" {
            let mut given: Value = serde_json::from_slice(input).expect("it was read");
            given["prevResult"]["cniVersion"] = given["cniVersion"].clone();
            assert_eq!(said, given["prevResult"]);
        }
    }
    for shape in [Shape::List, Shape::Single] {
        let Ok(Some(with)) = joined(input, shape) else { continue };
        assert_eq!(joined(with.as_bytes(), Shape::List), Ok(None), "{with}");
        let without = parted(with.as_bytes()).expect("it is a chain").expect("we are in it");
        if shape == Shape::List {
            let before = parted(input).expect("it is a chain");
            assert!(is_same(without.as_bytes(), before.as_deref().map_or(input, str::as_bytes)), "{without}");
        }
    }
    if let Some(options) = std::str::from_utf8(input).ok().and_then(|text| Options::from_annotation(text).ok()) {
        assert_eq!(Options::from_annotation(&options.to_annotation()), Ok(options));
    }
});
