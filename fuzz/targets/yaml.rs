//! Files of resources: no panic, every place lies in the file, and a document has one reading, whatever stands around it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_control_plane::fuzzing::{Document, yaml};

const GOOD: &str = "\
apiVersion: v1
kind: Service
metadata: {name: after, namespace: shop}
spec: {ports: [{port: 80}]}
";

fuzz_target!(|text: &str| {
    let documents = yaml(text);
    // A lone carriage return breaks a line too (YAML 1.2 §5.4).
    let lines = 1 + u64::try_from(text.matches(['\n', '\r']).count()).expect("a number of lines");
    for (line, read) in &documents {
        assert!((1..=lines).contains(line), "line {line} of {lines}");
        if let Err(at) = read {
            // Where a document ends too early, the fault is behind its last line.
            assert!((*line..=lines + 1).contains(at), "fault in line {at} of {lines}, in the document of {line}");
        }
    }
    assert_eq!(yaml(text), documents);
    // One bad document costs nobody but itself: not the one behind it.
    let with_more = yaml(&format!("{text}\n---\n{GOOD}"));
    let last: Option<&Document> = with_more.last();
    assert!(last.is_some_and(|(_, read)| read.is_ok()), "{last:?}");
    assert_eq!(readable(&with_more).len(), readable(&documents).len() + 1);
});

fn readable(documents: &[Document]) -> Vec<&Document> {
    documents.iter().filter(|(_, read)| read.is_ok()).collect()
}
