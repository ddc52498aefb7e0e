//! The shop of the demo: which instances it has, how they reach one another, and a customer who orders.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::screen::Screen;
use crate::mesh::http::{Ask, ask};
use crate::mesh::programs::Programs;
use crate::mesh::workload::{App, Member};
use crate::mesh::{self, Mesh, Settings, service_ip};
use crate::world::{Family, World, wait_for};

/// The shop's namespace, and that of somebody who has no business there.
pub(super) const NAMESPACE: &str = "shop";
pub(super) const ELSEWHERE: &str = "elsewhere";

/// Short enough that every certificate is renewed while the demo runs.
const LEAF_LIFE: Duration = Duration::from_secs(20);

/// A customer of a new shop.
const CUSTOMER: (&str, &str) = ("ada@shop.example", "warp-and-weft");

/// The shop's resources, as its own directory has them.
const SERVICES: &str = include_str!("../../../examples/shop/mesh/services.yaml");
const AUTHORIZATION: &str = include_str!("../../../examples/shop/mesh/authorization.yaml");
pub(super) const CANARY: &str = include_str!("../../../examples/shop/mesh/canary.yaml");
pub(super) const RETRIES: &str = include_str!("../../../examples/shop/mesh/retries.yaml");

/// The file of the canary.
pub(super) const CANARY_FILE: &str = "canary.yaml";

/// Where the queue is, if there is one.
const QUEUE: u8 = 0x17;
const QUEUE_PORT: u16 = 6379;

/// The instances: name, service account, version. The customer and the intruder only have a proxy.
const INSTANCES: [(&str, &str, &str); 9] = [
    ("user", "user", "v1"),
    ("product-v1-a", "product", "v1"),
    ("product-v1-b", "product", "v1"),
    ("product-v2-a", "product", "v2"),
    ("payment", "payment", "v1"),
    ("order", "order", "v1"),
    ("storefront", "storefront", "v1"),
    ("customer", "customer", "v1"),
    ("intruder", "intruder", "v1"),
];

/// The shop, open.
pub(super) struct Shop<'w> {
    mesh: Mesh<'w>,
    programs: Programs,
    has_queue: bool,
    orders: u64,
}

/// Where a service of the shop is: its file says it.
pub(super) fn service(name: &str, family: Family) -> anyhow::Result<SocketAddr> {
    let begin = format!("name: {name}, ");
    let document = SERVICES.split("\n---").find(|document| document.contains(&begin));
    let document = document.with_context(|| format!("the shop has no service {name}"))?;
    let ips = document.split_once("clusterIPs: [").and_then(|(_, rest)| rest.split_once(']'));
    let ips = ips.context("a service without addresses")?.0.split(',');
    let ips = ips.filter_map(|ip| ip.trim().trim_matches('"').parse::<IpAddr>().ok());
    let ip =
        ips.into_iter().find(|ip| ip.is_ipv4() == (family == Family::V4)).context("a service without such address")?;
    let port = document.split_once(" port: ").and_then(|(_, rest)| rest.split_once(','));
    let port = port.and_then(|(port, _)| port.parse().ok()).context("a service without a port")?;
    Ok(SocketAddr::new(ip, port))
}

impl<'w> Shop<'w> {
    /// Opens it and waits until it serves.
    pub(super) fn open(world: &'w World, programs: &Programs, screen: &mut Screen) -> anyhow::Result<Self> {
        screen.say("starting the control plane");
        let settings = Settings { leaf_life: LEAF_LIFE, ..Settings::new(Family::V4) };
        let mesh = Mesh::start(world, programs, settings)?;
        // An order is told to a queue where one can be up.
        let has_queue = mesh::on_the_path("redis-server").is_some();
        let mut shop = Self { mesh, programs: programs.clone(), has_queue, orders: 0 };
        for (file, yaml) in [("services.yaml", SERVICES), ("authorization.yaml", AUTHORIZATION), (CANARY_FILE, CANARY)]
        {
            shop.mesh.write(file, yaml)?;
        }
        if has_queue {
            let ports = format!("[{{name: redis, port: {QUEUE_PORT}}}]");
            shop.mesh.write("queue.yaml", &mesh::service(NAMESPACE, "queue", QUEUE, &ports))?;
        }
        let queue = has_queue.then_some(("queue", "queue", "v1"));
        for (name, account, version) in queue.into_iter().chain(INSTANCES) {
            screen.say(&format!("starting {name}"));
            let namespace = if name == "intruder" { ELSEWHERE } else { NAMESPACE };
            shop.mesh.join(Member::new(namespace, name, account).label("version", version))?;
            if let Some(app) = shop.app(name, account, version)? {
                shop.mesh.start_app(name, app)?;
            }
        }
        screen.say("waiting for every proxy to be ready");
        shop.mesh.ready()?;
        let answered = wait_for("the shop's first page", mesh::WITHIN, || shop.products().ok());
        answered.or_else(|_| shop.products()).context("the shop's first page")?;
        Ok(shop)
    }

    /// The application of an instance.
    fn app(&self, name: &str, account: &str, version: &str) -> anyhow::Result<Option<App>> {
        let family = self.mesh.settings().family;
        let url = |name: &str| service(name, family).map(|addr| format!("http://{addr}"));
        let mut args: Vec<String> = match account {
            "user" | "payment" => Vec::new(),
            "product" => vec![format!("--version={version}"), format!("--latency-ms={LATENCY_MS}")],
            "order" => {
                let queue = SocketAddr::new(service_ip(QUEUE, family), QUEUE_PORT);
                let queue = if self.has_queue { format!("--queue={queue}") } else { String::new() };
                vec![format!("--product-url={}", url("product")?), format!("--payment-url={}", url("payment")?), queue]
            }
            "storefront" => ["user", "product", "order"]
                .iter()
                .map(|name| Ok(format!("--{name}-url={}", url(name)?)))
                .collect::<anyhow::Result<_>>()?,
            "queue" => return Ok(Some(App::new("redis-server", "redis-server", REDIS))),
            _ => return Ok(None),
        };
        args.retain(|arg| !arg.is_empty());
        // The instances of one service share one database, as they would share a server.
        let database = self.mesh.world().directory().join(format!("{account}.sqlite"));
        args.extend([format!("--name={name}"), format!("--database={}", database.display()), "--log=warn".to_owned()]);
        let program = self.programs.find(&format!("shop-{account}"))?;
        Ok(Some(App::new(&format!("shop-{account}"), program, args)))
    }

    pub(super) fn mesh(&self) -> &Mesh<'w> {
        &self.mesh
    }

    pub(super) fn mesh_mut(&mut self) -> &mut Mesh<'w> {
        &mut self.mesh
    }

    pub(super) fn has_queue(&self) -> bool {
        self.has_queue
    }

    /// Where a service is.
    pub(super) fn addr(&self, name: &str) -> anyhow::Result<SocketAddr> {
        service(name, self.mesh.settings().family)
    }

    /// Asks the storefront as the customer.
    fn ask(&self, method: &str, path: &str, session: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let body = body.map_or_else(String::new, Value::to_string);
        let bearer = format!("Bearer {session}");
        let mut headers = vec![("accept", "application/json")];
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        if !session.is_empty() {
            headers.push(("authorization", &bearer));
        }
        let asked = Ask { method, addr: self.addr("storefront")?, path, headers: &headers, body: &body };
        let answer = ask(self.mesh.workload("customer")?.host(), &asked)?;
        let reason = answer.header("weft-error").unwrap_or_default().to_owned();
        let page = answer.success().with_context(|| format!("{method} {path} {reason}"))?;
        serde_json::from_str(&page).with_context(|| format!("{method} {path}: not JSON"))
    }

    /// The catalogue.
    pub(super) fn products(&self) -> anyhow::Result<Value> {
        self.ask("GET", "/api/products", "", None)
    }

    /// Logs the customer in.
    pub(super) fn log_in(&self) -> anyhow::Result<String> {
        let (email, password) = CUSTOMER;
        let session = self.ask("POST", "/api/login", "", Some(&json!({"email": email, "password": password})))?;
        session.get("token").and_then(Value::as_str).map(str::to_owned).context("the login gave no token")
    }

    /// Places an order; it is paid when this returns.
    pub(super) fn order(&mut self, session: &str) -> anyhow::Result<()> {
        self.orders += 1;
        let wish = json!({
            "idempotency_key": format!("demo-{}", self.orders),
            "product_id": 1 + self.orders % 3,
            "quantity": 1,
        });
        let order = self.ask("POST", "/api/orders", session, Some(&wish))?;
        let state = order.get("state").and_then(Value::as_str).unwrap_or_default();
        ensure!(state == "paid", "order {} is {state:?}, not paid", self.orders);
        Ok(())
    }
}

/// The canary's file with this share of requests for v2: two numbers are edited.
pub(super) fn canary(percent_v2: u32) -> String {
    let edit = |yaml: &str, version: &str, from: u32, to: u32| {
        let line = |weight| format!("product-{version}, port: 80, weight: {weight} ");
        yaml.replace(&line(from), &line(to))
    };
    edit(&edit(CANARY, "v1", 100, 100 - percent_v2), "v2", 0, percent_v2)
}

/// How long the catalogue takes: at the load's rate some requests are always in flight, so that who is killed loses some.
const LATENCY_MS: u32 = 10;

/// Redis without a disk, open to its host, whose proxy decides who comes in.
const REDIS: [&str; 8] = ["--port", "6379", "--save", "", "--appendonly", "no", "--protected-mode", "no"];

#[cfg(test)]
mod tests {
    use super::{CANARY, canary, service};
    use crate::world::Family;

    #[test]
    fn the_shops_own_file_tells_where_a_service_is() {
        assert_eq!(service("product", Family::V4).unwrap().to_string(), "10.96.0.12:80");
        assert_eq!(service("product", Family::V6).unwrap().to_string(), "[fd96::12]:80");
        assert_eq!(service("payment", Family::V4).unwrap().port(), 9000);
        assert!(service("nothing", Family::V4).is_err());
    }

    #[test]
    fn the_canary_edits_two_numbers() {
        assert_eq!(canary(0), CANARY);
        let half = canary(10);
        assert!(
            half.contains("product-v1, port: 80, weight: 90 ") && half.contains("product-v2, port: 80, weight: 10 "),
            "{half}"
        );
        assert!(
            canary(100).contains("product-v1, port: 80, weight: 0 ")
                && canary(100).contains("product-v2, port: 80, weight: 100 ")
        );
    }
}
