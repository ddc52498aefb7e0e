//! What a large cluster takes in memory.
#![expect(clippy::unwrap_used, reason = "test harness")]

use std::fs;

use serde_json::{Value, json};
use weft_index::{Index, IndexConfig, Object};
use weft_model::ServiceKey;

const SERVICES: u32 = 200;
const SLICES: u32 = 10;
const ENDPOINTS: u32 = 100;

/// What an endpoint of a hand-made slice may take, whatever it is kept in: a third more than was measured (546).
const BYTES_MAX: u64 = 730;

#[test]
fn two_hundred_thousand_endpoints_of_slices_leave_room() {
    let config = IndexConfig { networks: vec!["10.0.0.0/8".parse().unwrap()], ..IndexConfig::default() };
    let mut index = Index::new(config);
    // What making one takes is taken before.
    index.apply(&slice_of(0, 0));
    let before = resident_bytes();
    for number in 0..SERVICES {
        index.apply(&service(number));
        for slice in 0..SLICES {
            index.apply(&slice_of(number, slice));
        }
    }
    let endpoints = u64::from(SERVICES * SLICES * ENDPOINTS);
    let each = resident_bytes().saturating_sub(before) / endpoints;
    println!("{endpoints} endpoints take {each} bytes each");
    assert_eq!(index.endpoints(&ServiceKey::new("scale", "service-7", 80), None).upserted.len(), 1000);
    assert!(each <= BYTES_MAX, "{each} bytes an endpoint, of {BYTES_MAX}");
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn service(number: u32) -> Object {
    let ip = format!("10.96.0.{number}");
    let spec = json!({"clusterIP": ip, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    let metadata = json!({"namespace": "scale", "name": format!("service-{number}")});
    Object::Service(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
}

fn slice_of(number: u32, slice: u32) -> Object {
    let endpoint = |at: u32| {
        let host = (number * SLICES + slice) * ENDPOINTS + at;
        let address = format!("10.{}.{}.{}", 128 + host / 65_536, host / 256 % 256, host % 256);
        json!({"addresses": [address], "conditions": {"ready": true}, "zone": format!("zone-{}", at % 3),
            "nodeName": format!("node-{at}")})
    };
    let endpoints: Vec<Value> = (0..ENDPOINTS).map(endpoint).collect();
    let labels = json!({"kubernetes.io/service-name": format!("service-{number}")});
    let metadata = json!({"namespace": "scale", "name": format!("service-{number}-{slice}"), "labels": labels});
    let ports = json!([{"name": "http", "port": 8080}]);
    let slice = json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
    Object::EndpointSlice(serde_json::from_value(slice).unwrap())
}
