use super::*;

const RELEASED: &str = r#"
syntax = "proto3";
package weft.test.v1;
service Mesh {
  rpc Watch(stream Hello) returns (stream Hello);
  rpc Once(Hello) returns (Hello);
}
message Hello {
  reserved 9;
  reserved "ninth";
  string name = 1;
  uint32 port = 2;
  repeated string addresses = 3;
  string old = 4 [deprecated = true];
  oneof proof { string token = 5; string certificate = 6; }
  Mode mode = 7;
  message Inner { string a = 1; }
  Inner inner = 8;
}
message AuthzRule {
  oneof kind { string namespace = 1; }
  repeated uint32 ports = 2;
}
enum Mode { MODE_ALLOW = 0; MODE_DENY = 1; }
"#;

fn compiled(text: &str) -> FileDescriptorSet {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("test.proto"), text).unwrap();
    let mut compiler = protox::Compiler::new([directory.path()]).unwrap();
    compiler.open_file("test.proto").unwrap_or_else(|error| panic!("{error}\n{text}"));
    compiler.file_descriptor_set()
}

fn told(now: &str) -> Vec<String> {
    breaks(&compiled(RELEASED), &compiled(now)).iter().map(ToString::to_string).collect()
}

#[test]
fn what_a_released_peer_would_misread_is_named() {
    for (was, is, want) in [
        ("string name = 1;", "", "weft.test.v1.Hello.name (number 1) is gone, and its number and name are not both"),
        ("string name = 1;", "reserved 1;", "Hello.name (number 1) is gone, and its number and name are not both"),
        ("string name = 1;", "reserved 1; reserved \"name\";", "Hello.name (number 1) is gone, and was not deprecated"),
        ("string name = 1;", "string title = 1;", "Hello.name gave its number 1 to title"),
        ("string name = 1;", "string name = 10;", "Hello.name had the number 1 and has 10 now"),
        ("uint32 port = 2;", "int32 port = 2;", "Hello.port was of type uint32 and is of int32"),
        ("uint32 port = 2;", "repeated uint32 port = 2;", "Hello.port was optional and is repeated"),
        ("uint32 port = 2;", "optional uint32 port = 2;", "Hello.port is absent or zero by another rule"),
        ("uint32 port = 2;", "oneof a { uint32 port = 2; }", "Hello.port was in no oneof and is in the oneof a"),
        ("oneof proof {", "oneof other {", "Hello.token was in the oneof proof and is in the oneof other"),
        (
            "Mode mode = 7;",
            "Inner mode = 7;",
            "Hello.mode was of type weft.test.v1.Mode and is of weft.test.v1.Hello.Inner",
        ),
        ("string a = 1;", "bytes a = 1;", "Hello.Inner.a was of type string and is of bytes"),
        ("reserved 9;", "uint32 nine = 9;", "Hello.nine has the number 9, which was reserved"),
        ("reserved 9;", "", "Hello no longer reserves the number 9"),
        ("reserved \"ninth\";", "uint32 ninth = 10;", "Hello.ninth has a name that was reserved"),
        ("MODE_DENY = 1;", "", "Mode.MODE_DENY (number 1) is gone, and peers may send it"),
        ("MODE_DENY = 1;", "MODE_AUDIT = 1;", "Mode.MODE_DENY gave its number 1 to MODE_AUDIT"),
        ("rpc Once(Hello) returns (Hello);", "", "Mesh.Once is gone, and peers call it"),
        ("rpc Once(Hello)", "rpc Once(AuthzRule)", "Mesh.Once takes or returns another message"),
        ("rpc Once(Hello)", "rpc Once(stream Hello)", "Mesh.Once streams otherwise than before"),
        ("service Mesh", "service Net", "test.proto: weft.test.v1.Mesh is gone"),
        ("message AuthzRule {", "message Rule {", "weft.test.v1.AuthzRule is gone, or has another name or package"),
        (
            "repeated uint32 ports = 2;",
            "repeated uint32 ports = 2; string jwt = 3;",
            "AuthzRule.jwt is new in a message of which an older proxy may pass over nothing",
        ),
        (
            "repeated uint32 ports = 2;",
            "repeated uint32 ports = 2; oneof more { string jwt = 3; }",
            "AuthzRule.jwt is new in a message",
        ),
    ] {
        assert!(RELEASED.contains(was), "{was}");
        let told = told(&RELEASED.replace(was, is));
        assert!(told.iter().any(|one| one.contains(want)), "{was} → {is}: {want:?} is not in {told:#?}");
    }
    let renamed = told(&RELEASED.replace("weft.test.v1;", "weft.test.v2;"));
    assert_eq!(renamed.len(), 5, "three messages, an enum and a service: {renamed:#?}");
}

#[test]
fn what_a_released_peer_passes_over_or_refuses_by_name_is_no_break() {
    for (was, is) in [
        ("string name = 1;", "string name = 1; string more = 20;"),
        ("string old = 4 [deprecated = true];", "reserved 4; reserved \"old\";"),
        ("string token = 5;", "string token = 5; string key = 21;"),
        ("oneof kind { string namespace = 1;", "oneof kind { string namespace = 1; string jwt = 3;"),
        ("MODE_DENY = 1;", "MODE_DENY = 1; MODE_AUDIT = 2;"),
        ("rpc Once(Hello) returns (Hello);", "rpc Once(Hello) returns (Hello); rpc Twice(Hello) returns (Hello);"),
        ("message AuthzRule {", "message New { string a = 1; }\nmessage AuthzRule {"),
    ] {
        assert!(RELEASED.contains(was), "{was}");
        assert_eq!(told(&RELEASED.replace(was, is)), Vec::<String>::new(), "{was} → {is}");
    }
}
