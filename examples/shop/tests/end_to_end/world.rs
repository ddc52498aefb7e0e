//! The five programs as processes on loopback, and how the tests talk to them.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that is running. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Program {
    /// Starts a program on a free port and waits until it listens.
    pub(crate) fn start(program: &str, database: &Path, flags: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(["--listen", "127.0.0.1:0", "--log-format", "json", "--database"])
            .arg(database)
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (listening, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                if event["message"] == "listening" {
                    listening.send(event["addr"].as_str().unwrap().parse().unwrap()).unwrap();
                }
                eprintln!("{line}");
            }
        });
        let addr = heard.recv_timeout(PATIENCE).expect("the program says that it listens");
        Self { child, addr }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        for _ in 0..600 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the program does not end");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The whole shop.
pub(crate) struct Shop {
    pub(crate) user: Program,
    pub(crate) product: Program,
    pub(crate) payment: Program,
    pub(crate) order: Program,
    pub(crate) storefront: Program,
    pub(crate) dir: TempDir,
}

impl Shop {
    /// Starts all five.
    pub(crate) fn start(order_flags: &[&str]) -> Self {
        Self::start_via(|_, addr| addr, order_flags)
    }

    /// Starts all five; `order` reaches the others where `via` says.
    pub(crate) fn start_via(via: impl Fn(&str, SocketAddr) -> SocketAddr, order_flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let user = Program::start(env!("CARGO_BIN_EXE_shop-user"), &file("user"), &[]);
        let product_flags = ["--stock", "1000", "--version", "v2"];
        let product = Program::start(env!("CARGO_BIN_EXE_shop-product"), &file("product"), &product_flags);
        let payment = Program::start(env!("CARGO_BIN_EXE_shop-payment"), &file("payment"), &[]);
        let payment_via = format!("http://{}", via("payment", payment.addr));
        let product_via = format!("http://{}", via("product", product.addr));
        let (user_url, product_url) = (user.url(), product.url());
        let flags = [&["--product-url", &product_via, "--payment-url", &payment_via], order_flags].concat();
        let order = Program::start(env!("CARGO_BIN_EXE_shop-order"), &file("order"), &flags);
        let order_url = order.url();
        let flags = ["--user-url", &user_url, "--product-url", &product_url, "--order-url", &order_url];
        let storefront = Program::start(env!("CARGO_BIN_EXE_shop-storefront"), &file("storefront"), &flags);
        Self { user, product, payment, order, storefront, dir }
    }

    pub(crate) async fn login(&self, email: &str) -> Customer {
        let body = serde_json::json!({"email": email, "password": "warp-and-weft"});
        let (status, session) = call(Method::POST, &self.storefront, "/api/login", None, Some(body)).await;
        assert_eq!(status, 201, "{session}");
        Customer { token: session["token"].as_str().unwrap().to_owned() }
    }

    pub(crate) async fn stock(&self, product: i64) -> i64 {
        let (_, product) = call(Method::GET, &self.product, &format!("/products/{product}"), None, None).await;
        product["stock"].as_i64().unwrap()
    }
}

/// Somebody who is logged in.
pub(crate) struct Customer {
    token: String,
}

impl Customer {
    pub(crate) async fn order(&self, shop: &Shop, key: &str, product: i64, quantity: i64) -> (u16, Value) {
        let wish = serde_json::json!({"idempotency_key": key, "product_id": product, "quantity": quantity});
        call(Method::POST, &shop.storefront, "/api/orders", Some(&self.token), Some(wish)).await
    }

    pub(crate) async fn get(&self, shop: &Shop, path: &str) -> (u16, Value) {
        call(Method::GET, &shop.storefront, path, Some(&self.token), None).await
    }

    /// Waits until an order is in a state.
    pub(crate) async fn wait_for(&self, shop: &Shop, order: &str, state: &str) -> Value {
        let mut last = Value::Null;
        for _ in 0..300 {
            let (_, order) = self.get(shop, &format!("/api/orders/{order}")).await;
            if order["state"] == state {
                return order;
            }
            last = order;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("expected {state}, still {last}");
    }
}

/// Asks for JSON.
pub(crate) async fn call(
    method: Method,
    program: &Program,
    path: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(format!("{}{path}", program.url()));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let (head, body) = send(request.body(Full::new(body)).unwrap()).await.into_parts();
    (head.status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
}

/// Sends a request over a connection of its own.
pub(crate) async fn send(request: Request<Full<Bytes>>) -> Response<Bytes> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answered = async {
        let (head, body) = client.request(request).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("an answer in time")
}
