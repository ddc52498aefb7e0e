//! The way to a field: `spec.ports[0].port`.

use std::fmt;

/// The way to a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::source) struct FieldPath(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source) enum Segment {
    Index(usize),
    Name(String),
}

impl FieldPath {
    /// Reads names that are joined by dots.
    pub(in crate::source) fn parse(text: &str) -> Self {
        Self(text.split('.').filter(|name| !name.is_empty()).map(|name| Segment::Name(name.to_owned())).collect())
    }

    pub(in crate::source) fn of_ignored(path: &serde_ignored::Path<'_>) -> Self {
        use serde_ignored::Path;
        let (parent, segment) = match path {
            Path::Root => return Self::default(),
            Path::Seq { parent, index } => (parent, Some(Segment::Index(*index))),
            Path::Map { parent, key } => (parent, Some(Segment::Name(key.clone()))),
            Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => (parent, None),
        };
        let mut path = Self::of_ignored(parent);
        path.0.extend(segment);
        path
    }

    /// Where an error happened; one about a field that is not known or missing names that field.
    pub(in crate::source) fn of_error(path: &serde_path_to_error::Path, message: &str) -> Self {
        let mut segments: Vec<Segment> = path
            .iter()
            .filter_map(|segment| match segment {
                serde_path_to_error::Segment::Seq { index } => Some(Segment::Index(*index)),
                serde_path_to_error::Segment::Map { key } => Some(Segment::Name(key.clone())),
                serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => None,
            })
            .collect();
        let named = ["unknown field `", "missing field `"].iter().find_map(|about| message.strip_prefix(about));
        if let Some((field, _)) = named.and_then(|rest| rest.split_once('`')) {
            let field = Segment::Name(field.to_owned());
            if segments.last() != Some(&field) {
                segments.push(field);
            }
        }
        Self(segments)
    }

    /// Whether it is one of the root's own fields.
    pub(in crate::source) fn is_one_of(&self, names: &[&str]) -> bool {
        matches!(self.0.as_slice(), [Segment::Name(name)] if names.contains(&name.as_str()))
    }

    pub(in crate::source) fn segments(&self) -> &[Segment] {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Name(name) if i == 0 => f.write_str(name)?,
                Segment::Name(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}
