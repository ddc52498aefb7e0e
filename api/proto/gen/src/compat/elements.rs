//! What a set of `.proto` files defines, by full names.

use std::collections::BTreeMap;

use protox::prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

use super::Break;

/// Everything, nested definitions too.
#[derive(Debug, Default)]
pub(super) struct Elements<'a> {
    pub(super) messages: BTreeMap<String, Message<'a>>,
    pub(super) enums: BTreeMap<String, Enum<'a>>,
    pub(super) services: BTreeMap<String, Service<'a>>,
}

/// One definition and the file that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defined<'a, T> {
    file: &'a str,
    pub(super) proto: &'a T,
}

pub(super) type Message<'a> = Defined<'a, DescriptorProto>;
pub(super) type Enum<'a> = Defined<'a, EnumDescriptorProto>;
pub(super) type Service<'a> = Defined<'a, ServiceDescriptorProto>;

impl<'a> Elements<'a> {
    pub(super) fn of(set: &'a FileDescriptorSet) -> Self {
        let mut elements = Self::default();
        for file in &set.file {
            let (name, package) = (file.name(), file.package());
            for message in &file.message_type {
                elements.add_message(name, package, message);
            }
            for proto in &file.enum_type {
                elements.enums.insert(format!("{package}.{}", proto.name()), Defined { file: name, proto });
            }
            for proto in &file.service {
                elements.services.insert(format!("{package}.{}", proto.name()), Defined { file: name, proto });
            }
        }
        elements
    }

    fn add_message(&mut self, file: &'a str, scope: &str, proto: &'a DescriptorProto) {
        let name = format!("{scope}.{}", proto.name());
        for nested in &proto.nested_type {
            self.add_message(file, &name, nested);
        }
        for nested in &proto.enum_type {
            self.enums.insert(format!("{name}.{}", nested.name()), Defined { file, proto: nested });
        }
        self.messages.insert(name, Defined { file, proto });
    }
}

impl<T> Defined<'_, T> {
    /// What was done to it, or to a part of it.
    pub(super) fn broken(&self, element: &str, problem: impl Into<String>, remedy: &'static str) -> Break {
        Break { file: self.file.to_owned(), element: element.to_owned(), problem: problem.into(), remedy }
    }
}

impl<'a> Message<'a> {
    /// The oneof that somebody wrote around a field; `optional` makes one too, which is nobody's.
    pub(super) fn oneof(&self, field: &FieldDescriptorProto) -> Option<&'a str> {
        let index = field.oneof_index.filter(|_| !field.proto3_optional())?;
        Some(self.proto.oneof_decl.get(usize::try_from(index).ok()?)?.name())
    }

    /// Whether it has a oneof of this name.
    pub(super) fn has_oneof(&self, name: &str) -> bool {
        self.proto.oneof_decl.iter().any(|oneof| oneof.name() == name)
    }
}
