//! The chart's own files, for `deploy/helm/weft`.
//!
//! Helm makes the release's namespace itself, and it must be the one that proxies know; what was set is Helm's to remember. Everything
//! else is there as `weft install` prints it. The definitions of our kinds are templates, so that an upgrade upgrades them too, and
//! stay when the release goes, for with them all policies would go.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::objects::{self, NAMESPACE, Template};
use crate::template::Condition;
use crate::values::Values;
use crate::yaml::{self, comment_lines};

/// What stands above each file.
const HEAD: &str = "# Made by `cargo xtask gen` from cli/install: change it there.\n";

/// Every file, by its path in the chart.
pub fn files() -> Vec<(String, String)> {
    let mut files = vec![
        ("Chart.yaml".to_owned(), format!("{HEAD}{}", yaml::document(&about()))),
        ("values.yaml".to_owned(), format!("{HEAD}{}", values())),
        ("values.schema.json".to_owned(), format!("{:#}\n", schema())),
        ("templates/NOTES.txt".to_owned(), NOTES.to_owned()),
        ("templates/crds.yaml".to_owned(), definitions()),
        ("templates/release.yaml".to_owned(), format!("{HEAD}{}", guard())),
    ];
    let mut templates: Vec<(String, String)> = Vec::new();
    for template in objects::templates().iter().filter(|template| template.file != "namespace") {
        let name = format!("templates/{}.yaml", template.file);
        let text = helm(template);
        match templates.last_mut() {
            Some((last, whole)) if *last == name => whole.push_str(&text),
            _ => templates.push((name, format!("{HEAD}{text}"))),
        }
    }
    files.extend(templates);
    files
}

fn about() -> Value {
    json!({
        "apiVersion": "v2", "name": "weft", "type": "application", "description": "Weft, a sidecar service mesh",
        "version": env!("CARGO_PKG_VERSION"), "appVersion": env!("CARGO_PKG_VERSION"), "kubeVersion": ">=1.29.0-0",
    })
}

const NOTES: &str = "\
Weft {{ .Chart.AppVersion }} is installed. Check it with

  weft check

and put workloads into the mesh with

  kubectl label namespace NAME weft.dev/inject=enabled
  kubectl -n NAME rollout restart deployment
";

fn guard() -> String {
    format!(
        "{{{{- if ne .Release.Namespace \"{NAMESPACE}\" }}}}\n\
         {{{{- fail \"Weft lives in {NAMESPACE}, by which proxies know its control plane: --namespace {NAMESPACE} --create-namespace\" }}}}\n\
         {{{{- end }}}}\n"
    )
}

fn helm(template: &Template) -> String {
    let text = format!("---\n{}{}", comment_lines(template.comment), yaml::helm_template(&template.object));
    on_condition(template.when, &text)
}

fn on_condition(condition: Option<&str>, text: &str) -> String {
    match condition {
        Some(condition) => format!("{}\n{text}{{{{- end }}}}\n", Condition::of(condition).in_helm()),
        None => text.to_owned(),
    }
}

fn definitions() -> String {
    let texts = objects::definitions().into_iter().map(|mut definition| {
        definition["metadata"]["annotations"] = annotations();
        format!("---\n{}", yaml::document(&definition))
    });
    format!("{HEAD}{}", on_condition(Some("crds.enabled"), &texts.collect::<String>()))
}

/// Helm and Argo CD leave a definition where it is when Weft goes, and Argo CD applies it before all else.
fn annotations() -> Value {
    json!({
        "helm.sh/resource-policy": "keep",
        "argocd.argoproj.io/sync-options": "Delete=false,Prune=false",
        "argocd.argoproj.io/sync-wave": "-1",
    })
}

/// What can be set, as JSON Schema. Helm before 3.18 reads draft 7 and nothing newer.
fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Values>().to_value();
    schema["title"] = json!("Values of Weft's chart");
    // Helm hands it to every chart that is part of another.
    schema["properties"]["global"] = json!({"type": "object"});
    schema
}

/// The defaults, each with what it means.
pub fn values() -> String {
    let mut text = String::new();
    describe(&mut text, &Values::default().to_json(), &schema(), 0);
    text
}

fn describe(text: &mut String, values: &Value, schema: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    // In the order in which the type has them.
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let (value, schema) = (&values[name], &schema["properties"][name]);
        let description = schema["description"].as_str().unwrap_or_default();
        for line in description.lines() {
            text.extend([&pad, "# ", line, "\n"]);
        }
        if schema["properties"].is_object() {
            text.extend([&pad, name, ":\n"]);
            describe(text, value, schema, indent + 2);
        } else {
            let entry = yaml::document(&json!({name: value}));
            text.extend(entry.lines().map(|line| format!("{pad}{line}\n")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_charts_defaults_are_the_defaults() {
        let read: Value = serde_saphyr::from_str(&values()).unwrap();
        assert_eq!(read, Values::default().to_json());
    }

    /// What the example for Argo CD says of us is there.
    #[test]
    fn the_application_of_argo_cd_points_to_what_is_there() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = std::fs::read_to_string(root.join("deploy/argocd/application.yaml")).unwrap();
        let application: Value = serde_saphyr::from_str(&text).unwrap();
        let spec = &application["spec"];
        assert!(root.join(spec["source"]["path"].as_str().unwrap()).join("Chart.yaml").is_file());
        assert_eq!(spec["destination"]["namespace"], NAMESPACE);
        let layer = crate::Layer::file(&spec["source"]["helm"]["valuesObject"].to_string()).unwrap();
        let (values, _) = Values::read([layer]).unwrap();
        let ignored = &spec["ignoreDifferences"][0];
        let is_ignored =
            |object: &Value| object["kind"] == ignored["kind"] && object["metadata"]["name"] == ignored["name"];
        assert!(crate::manifests(&values).iter().any(|manifest| is_ignored(&manifest.object)), "{ignored}");
        let namespace = objects::templates().into_iter().find(|template| template.file == "namespace").unwrap();
        let labels = &spec["syncPolicy"]["managedNamespaceMetadata"]["labels"];
        assert_eq!(*labels, namespace.object["metadata"]["labels"]);
    }

    #[test]
    fn nothing_in_a_definition_looks_like_an_expression() {
        assert!(!yaml::document(&json!(objects::definitions())).contains("{{"));
    }
}
