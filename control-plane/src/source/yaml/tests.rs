use std::fmt::Write;

use proptest::prelude::*;

use super::{Document, DocumentError, documents};

const GOOD: &str =
    "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {name: a, namespace: shop}\nspec:\n  address: 10.0.0.1\n";

fn errors(text: &str) -> Vec<DocumentError> {
    documents(text).into_iter().filter_map(|document| document.read.err()).collect()
}

fn place(error: &DocumentError) -> (u64, &str) {
    (error.line, error.field.as_str())
}

#[test]
fn every_document_of_a_file_is_read() {
    let text = format!("# a comment\n---\n{GOOD}---\n# nothing\n---\n{}...\n", GOOD.replace("name: a", "name: b"));
    let read: Vec<Document> = documents(&text);
    let keys: Vec<_> = read.iter().map(|d| (d.line, d.read.as_ref().unwrap().key().to_string())).collect();
    assert_eq!(keys, [(2, "Workload/shop/a".to_owned()), (10, "Workload/shop/b".to_owned())]);
}

#[test]
fn a_bad_document_costs_nobody_but_itself_and_says_where() {
    let text = format!("{GOOD}---\nkind: [unclosed\n---\n{GOOD}");
    let read = documents(&text);
    assert_eq!(read.iter().map(|d| d.read.is_ok()).collect::<Vec<_>>(), [true, false, true]);
    let error = read[1].read.as_ref().unwrap_err();
    assert!((6..=8).contains(&error.line), "{error:?}");
    assert!(!error.message.contains("line"), "the place is said once: {error:?}");
}

#[test]
fn what_is_wrong_is_named_with_line_and_field() {
    let spec = |spec: &str| GOOD.replace("  address: 10.0.0.1\n", spec);
    for (text, line, field, words) in [
        (spec("  address: 10.0.0.1\n  adress: x\n"), 6, "spec.adress", "unknown field"),
        (spec("  ports: []\n"), 4, "spec.address", "missing field"),
        (
            spec("  address: 10.0.0.1\n  ports:\n  - port: 80\n  - port: http\n"),
            8,
            "spec.ports[1].port",
            "invalid type",
        ),
        (spec("  address: 10.0.0.1\n  ports:\n  - port: 80\n    prot: 1\n"), 8, "spec.ports[0].prot", "unknown field"),
        (spec("  address: 10.0.0.1\n  weight: -1\n"), 6, "spec.weight", "invalid value"),
        (GOOD.replace("name: a", "name: A"), 3, "metadata.name", "not a name"),
        (GOOD.replace("namespace: shop", "namespace: a.b"), 3, "metadata.namespace", "not a namespace"),
        (GOOD.replace("name: a, ", ""), 3, "metadata.name", "missing"),
        (GOOD.replace("v1alpha1", "v1"), 1, "apiVersion", "weft.dev/v1alpha1"),
        (GOOD.replace("kind: Workload\n", ""), 1, "kind", "missing"),
        ("- a\n".to_owned(), 1, "", "a mapping"),
    ] {
        let found = errors(&text);
        assert_eq!(found.len(), 1, "{text}");
        assert_eq!(place(&found[0]), (line, field), "{text}\n{found:?}");
        assert!(found[0].message.contains(words), "{found:?}");
    }
}

#[test]
fn foreign_types_are_as_strict() {
    let service = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  clusterIP: 10.96.0.1\n  ports:\n  - port: 80\n    targetport: 8080\n";
    assert_eq!(place(&errors(service)[0]), (9, "spec.ports[0].targetport"));
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  rules:\n  - matches:\n    - path: {type: Prefix, value: /}\n";
    let error = &errors(route)[0];
    assert_eq!((error.line, error.field.as_str()), (7, "spec.rules[0].matches[0].path.type"), "{error:?}");
    assert!(error.message.contains("unknown variant"), "{error:?}");
    let route = route.replace("type: Prefix, ", "");
    assert!(errors(&route).is_empty(), "{:?}", errors(&route));
    assert!(errors(&format!("{GOOD}status: {{accepted: true}}\n")).is_empty());
}

#[test]
fn duplicate_keys_are_refused() {
    let text = format!("{GOOD}  address: 10.0.0.2\n");
    assert_eq!(errors(&text)[0].line, 6, "{:?}", errors(&text));
}

#[test]
fn kinds_of_others_are_left_alone() {
    let found = errors("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
    assert!(found[0].foreign, "{found:?}");
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        let alias = format!("*a{}", i - 1);
        writeln!(text, "a{i}: &a{i} [{}]", vec![alias; 10].join(", ")).unwrap();
    }
    assert_eq!(errors(&text).len(), 1);
}

proptest! {
    #[test]
    fn reading_never_panics(text in "\\PC{0,200}", noise in "[-a-z:\\[\\]{}&*!#.|> \n'\"]{0,200}") {
        let _read = documents(&text);
        let _read = documents(&noise);
        let _read = documents(&format!("{GOOD}{noise}"));
    }
}

/// What users are shown as examples must be what is read.
#[test]
fn the_shops_resources_are_read() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shop/mesh");
    let mut read = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(errors(&text), [], "{}", path.display());
        read += documents(&text).len();
    }
    assert!(read > 0);
}
