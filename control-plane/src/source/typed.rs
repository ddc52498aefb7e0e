//! Values as the kinds that they say they are, with the field that is to blame where they are not.

mod path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_index::{Kind, Object};

pub(super) use self::path::{FieldPath, Segment};

/// Reads a value as a resource of a kind.
///
/// # Errors
/// The field that does not fit, or that the kind does not have, and what is wrong with it.
pub(super) fn resource(kind: Kind, value: &Value) -> Result<Object, (FieldPath, String)> {
    Ok(match kind {
        Kind::AuthorizationPolicy => Object::AuthorizationPolicy(typed(value)?),
        Kind::EndpointSlice => Object::EndpointSlice(typed(value)?),
        Kind::GrpcRoute => Object::GrpcRoute(typed(value)?),
        Kind::HttpRoute => Object::HttpRoute(typed(value)?),
        Kind::MeshPolicy => Object::MeshPolicy(typed(value)?),
        Kind::Node => Object::Node(typed(value)?),
        Kind::Pod => Object::Pod(typed(value)?),
        Kind::Service => Object::Service(typed(value)?),
        Kind::TrafficPolicy => Object::TrafficPolicy(typed(value)?),
        Kind::Workload => Object::Workload(typed(value)?),
    })
}

/// Reads a value as its type; a field that the type does not have is an error too.
fn typed<T: DeserializeOwned>(value: &Value) -> Result<Box<T>, (FieldPath, String)> {
    let mut unknown = None;
    let read = {
        let mut note = |path: serde_ignored::Path<'_>| {
            let path = FieldPath::of_ignored(&path);
            if unknown.is_none() && !path.is_one_of(&["apiVersion", "kind"]) {
                unknown = Some(path);
            }
        };
        serde_path_to_error::deserialize::<_, T>(serde_ignored::Deserializer::new(value, &mut note))
    };
    let read = read.map_err(|error| {
        let message = error.inner().to_string();
        (FieldPath::of_error(error.path(), &message), message)
    })?;
    match unknown {
        Some(path) => Err((path, "unknown field".to_owned())),
        None => Ok(Box::new(read)),
    }
}
