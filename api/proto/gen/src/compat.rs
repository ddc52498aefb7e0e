//! Whether the wire is still understood by proxies and control planes of the versions before. What was released lies in
//! `api/proto/released`, a folder of `.proto` files for each version, and is compared with what there is now.
//!
//! Two things are looked after: bytes are read as they were meant (numbers, types, labels and oneofs stay), and what a peer of the
//! version before demands still comes (nothing goes that was not marked as deprecated in a release before it). What an older proxy
//! must not pass over in silence has a rule of its own, see [`CLOSED`].

mod elements;

use std::fmt;

use protox::prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use elements::{Elements, Enum, Message, Service};

/// Messages that say what is allowed, or what a rule is for. A proxy that does not know a field of them would allow more than is meant:
/// so they get no new ones but in a oneof, or by a new value of an enum, which it refuses by name and keeps what it had.
const CLOSED: [&str; 6] = ["AuthzPolicy", "AuthzRule", "HttpMatch", "OperationMatch", "PathMatch", "PeerMatch"];

/// Something that a peer of a released version would not understand, or understand otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Break {
    /// The `.proto` file, as it was released.
    file: String,
    /// The message and field, enum and value, or service and rpc.
    element: String,
    /// What was done to it.
    problem: String,
    /// What to do in its place.
    remedy: &'static str,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, element, problem, remedy } = self;
        write!(f, "{file}: {element} {problem}: {remedy}")
    }
}

const KEEP: &str = "keep it, and add another beside it";
const DEPRECATE: &str = "keep it for one release with [deprecated = true], in which nothing demands it any more; then reserve its number and its name";
const NUMBER: &str = "give the new one a number that was never used";

/// Everything that breaks a peer of the release.
pub(crate) fn breaks(released: &FileDescriptorSet, now: &FileDescriptorSet) -> Vec<Break> {
    let (released, now) = (Elements::of(released), Elements::of(now));
    let mut found = Vec::new();
    for (name, message) in &released.messages {
        match now.messages.get(name) {
            Some(now) => of_message(name, message, now, &mut found),
            None => found.push(message.broken(name, "is gone, or has another name or package", KEEP)),
        }
    }
    for (name, values) in &released.enums {
        match now.enums.get(name) {
            Some(now) => of_enum(name, values, now, &mut found),
            None => found.push(values.broken(name, "is gone, or has another name or package", KEEP)),
        }
    }
    for (name, service) in &released.services {
        of_service(name, service, now.services.get(name), &mut found);
    }
    found
}

fn of_message(name: &str, was: &Message<'_>, is: &Message<'_>, found: &mut Vec<Break>) {
    for field in &was.proto.field {
        let element = format!("{name}.{}", field.name());
        let same = is.proto.field.iter().find(|now| now.number() == field.number());
        let problems = match same {
            Some(now) => differences(was, field, is, now),
            None => gone(field, is.proto).into_iter().collect(),
        };
        found.extend(problems.into_iter().map(|(problem, remedy)| was.broken(&element, problem, remedy)));
    }
    for field in &is.proto.field {
        let element = format!("{name}.{}", field.name());
        let number = field.number();
        if reserves(was.proto, number) {
            found.push(was.broken(&element, format!("has the number {number}, which was reserved"), NUMBER));
        }
        if was.proto.reserved_name.iter().any(|name| name == field.name()) {
            found.push(was.broken(&element, "has a name that was reserved", "give it another"));
        }
        let is_new = !was.proto.field.iter().any(|before| before.number() == number);
        let short = name.rsplit('.').next().unwrap_or_default();
        if is_new && CLOSED.contains(&short) && is.oneof(field).is_none_or(|oneof| !was.has_oneof(oneof)) {
            let problem = "is new in a message of which an older proxy may pass over nothing";
            let remedy = "make it a new case of a oneof that is there, or say it by a new value of an enum: these are refused by name";
            found.push(was.broken(&element, problem, remedy));
        }
    }
    let lost = was.proto.reserved_range.iter().flat_map(|range| range.start()..range.end());
    for number in lost.filter(|number| !reserves(is.proto, *number) && !uses(is.proto, *number)) {
        found.push(was.broken(name, format!("no longer reserves the number {number}"), "reserve it for ever"));
    }
}

fn uses(message: &DescriptorProto, number: i32) -> bool {
    message.field.iter().any(|field| field.number() == number)
}

fn reserves(message: &DescriptorProto, number: i32) -> bool {
    message.reserved_range.iter().any(|range| (range.start()..range.end()).contains(&number))
}

/// A field whose number nobody has any more.
fn gone(field: &FieldDescriptorProto, now: &DescriptorProto) -> Option<(String, &'static str)> {
    let number = field.number();
    if let Some(moved) = now.field.iter().find(|now| now.name() == field.name()) {
        return Some((format!("had the number {number} and has {} now", moved.number()), KEEP));
    }
    let is_reserved = reserves(now, number) && now.reserved_name.iter().any(|name| name == field.name());
    if !is_reserved {
        return Some((format!("(number {number}) is gone, and its number and name are not both reserved"), DEPRECATE));
    }
    let was_deprecated = field.options.as_ref().is_some_and(|options| options.deprecated());
    (!was_deprecated)
        .then(|| (format!("(number {number}) is gone, and was not deprecated when it was released"), DEPRECATE))
}

/// What is other about a field of the same number.
fn differences(
    was: &Message<'_>,
    field: &FieldDescriptorProto,
    is: &Message<'_>,
    now: &FieldDescriptorProto,
) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    if field.name() != now.name() {
        found.push((format!("gave its number {} to {}", field.number(), now.name()), NUMBER));
    }
    let kind = |field: &FieldDescriptorProto| match field.type_name() {
        "" => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        name => name.trim_start_matches('.').to_owned(),
    };
    if kind(field) != kind(now) {
        found.push((format!("was of type {} and is of {}", kind(field), kind(now)), KEEP));
    }
    if field.label() != now.label() {
        let label =
            |field: &FieldDescriptorProto| field.label().as_str_name().trim_start_matches("LABEL_").to_lowercase();
        found.push((format!("was {} and is {}", label(field), label(now)), KEEP));
    }
    let (before, after) = (was.oneof(field), is.oneof(now));
    if before != after {
        let told =
            |oneof: Option<&str>| oneof.map_or_else(|| "no oneof".to_owned(), |name| format!("the oneof {name}"));
        found.push((format!("was in {} and is in {}", told(before), told(after)), KEEP));
    }
    if field.proto3_optional() != now.proto3_optional() {
        found.push(("is absent or zero by another rule than before (optional)".to_owned(), KEEP));
    }
    found
}

fn of_enum(name: &str, was: &Enum<'_>, is: &Enum<'_>, found: &mut Vec<Break>) {
    for value in &was.proto.value {
        let element = format!("{name}.{}", value.name());
        let problem = match is.proto.value.iter().find(|now| now.number() == value.number()) {
            Some(now) if now.name() == value.name() => continue,
            Some(now) => format!("gave its number {} to {}", value.number(), now.name()),
            None => format!("(number {}) is gone, and peers may send it", value.number()),
        };
        found.push(was.broken(&element, problem, KEEP));
    }
}

fn of_service(name: &str, was: &Service<'_>, is: Option<&Service<'_>>, found: &mut Vec<Break>) {
    let Some(is) = is else {
        return found.push(was.broken(name, "is gone, or has another name or package", KEEP));
    };
    for rpc in &was.proto.method {
        let element = format!("{name}.{}", rpc.name());
        let Some(now) = is.proto.method.iter().find(|now| now.name() == rpc.name()) else {
            found.push(was.broken(&element, "is gone, and peers call it", KEEP));
            continue;
        };
        if (rpc.input_type(), rpc.output_type()) != (now.input_type(), now.output_type()) {
            found.push(was.broken(&element, "takes or returns another message", "add another rpc beside it"));
        }
        let streams = |rpc: &protox::prost_reflect::prost_types::MethodDescriptorProto| {
            (rpc.client_streaming(), rpc.server_streaming())
        };
        if streams(rpc) != streams(now) {
            found.push(was.broken(&element, "streams otherwise than before", "add another rpc beside it"));
        }
    }
}

#[cfg(test)]
mod tests;
