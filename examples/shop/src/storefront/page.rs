//! The page's HTML: data in, text out.

use crate::error::ApiError;
use crate::order::{Order, State};
use crate::product::Product;
use crate::user::User;

/// Everything above the first element that depends on data.
const HEAD: &str = include_str!("page/head.html");

/// What the page shows.
pub(super) struct Page {
    /// Who is logged in.
    pub(super) user: Option<User>,
    pub(super) orders: Vec<Order>,
    pub(super) products: Vec<Product>,
    /// Whether something can be ordered; otherwise the products are what was seen last.
    pub(super) is_open: bool,
    pub(super) notices: Vec<Notice>,
    /// From which the keys of this page's forms are made: sending one twice orders once.
    pub(super) key: Option<String>,
}

/// A line above the products.
pub(super) struct Notice {
    text: String,
    is_good: bool,
}

impl Notice {
    pub(super) fn error(error: &ApiError) -> Self {
        Self { text: error.message.clone(), is_good: false }
    }

    pub(super) fn placed(order: &Order) -> Self {
        let total = order.total_cents.map(|total| total.to_string()).unwrap_or_default();
        let text = match order.state {
            State::Paid => format!("Thank you: {total} paid."),
            _ => format!("Thank you: {total} will be charged as soon as payments are back."),
        };
        Self { text, is_good: true }
    }
}

impl Page {
    pub(super) fn html(&self) -> String {
        let notices: String = self.notices.iter().map(notice).collect();
        let cards: String = self.products.iter().map(|product| self.card(product)).collect();
        let account = self.account();
        let orders = self.order_table();
        let shut = if self.is_open { "" } else { " class=\"shut\"" };
        format!(
            "{HEAD}<header><h1>Warp &amp; Weft</h1>{account}</header>\n<main{shut}>{notices}\n\
             <section class=\"cards\">{cards}</section>\n{orders}</main>\n</body>\n</html>\n"
        )
    }

    fn account(&self) -> String {
        match &self.user {
            Some(user) => format!(
                "<form method=\"post\" action=\"/logout\"><span>{}</span><button>Log out</button></form>",
                escaped(&user.name)
            ),
            None => "<form method=\"post\" action=\"/login\">\
                     <input name=\"email\" type=\"email\" aria-label=\"Email\" value=\"ada@shop.example\" required>\
                     <input name=\"password\" type=\"password\" aria-label=\"Password\" placeholder=\"Password\" required>\
                     <button>Log in</button></form>"
                .to_owned(),
        }
    }

    fn card(&self, product: &Product) -> String {
        let rating = product.rating_tenths.map(stars).unwrap_or_default();
        let foot = match &self.key {
            _ if !self.is_open => "<p class=\"note\">not to be ordered at the moment</p>".to_owned(),
            _ if product.stock == 0 => "<p class=\"note\">sold out</p>".to_owned(),
            Some(key) if self.user.is_some() => format!(
                "<form method=\"post\" action=\"/orders\">\
                 <input type=\"hidden\" name=\"idempotency_key\" value=\"{key}-{id}\">\
                 <input type=\"hidden\" name=\"product_id\" value=\"{id}\">\
                 <input type=\"number\" name=\"quantity\" aria-label=\"Quantity\" value=\"1\" min=\"1\" max=\"{max}\">\
                 <button>Order</button></form>",
                key = escaped(key),
                id = product.id,
                max = product.stock.min(crate::product::QUANTITY_MAX),
            ),
            _ => format!("<p class=\"note\">{} in stock</p>", product.stock),
        };
        // Neighbours get hues that are far apart.
        let hue = product.id.wrapping_mul(137).rem_euclid(360);
        format!(
            "<article style=\"--hue:{hue}\"><div class=\"cloth\"></div><h2>{}</h2><p>{}</p>{rating}<b>{}</b>{foot}</article>\n",
            escaped(&product.name),
            escaped(&product.description),
            product.price_cents,
        )
    }

    fn order_table(&self) -> String {
        if self.orders.is_empty() {
            return String::new();
        }
        let rows: String = self.orders.iter().map(|order| self.order_row(order)).collect();
        format!("<section><h2>Your orders</h2><table>{rows}</table></section>\n")
    }

    fn order_row(&self, order: &Order) -> String {
        let product = self.products.iter().find(|product| product.id == order.product_id);
        let name = product.map_or_else(|| format!("product {}", order.product_id), |product| product.name.clone());
        let state = match (&order.failure, order.state) {
            (Some(failure), _) => format!("failed: {}", failure.message),
            (None, State::Paid) => "paid".to_owned(),
            (None, State::Charging | State::Failed | State::Releasing | State::Reserving) => "waiting".to_owned(),
        };
        format!(
            "<tr><td>{} × {}</td><td>{}</td><td>{}</td></tr>",
            order.quantity,
            escaped(&name),
            order.total_cents.map(|total| total.to_string()).unwrap_or_default(),
            escaped(&state),
        )
    }
}

fn notice(notice: &Notice) -> String {
    let class = if notice.is_good { "good" } else { "bad" };
    format!("<p class=\"notice {class}\" role=\"status\">{}</p>", escaped(&notice.text))
}

/// Five stars, as many of them full as the rating rounds to.
fn stars(tenths: i64) -> String {
    let full = usize::try_from((tenths.clamp(0, 50) + 5) / 10).unwrap_or_default();
    let (whole, rest) = (tenths.clamp(0, 50) / 10, tenths.clamp(0, 50) % 10);
    let drawn: String = (0..5).map(|n| if n < full { '★' } else { '☆' }).collect();
    format!("<p class=\"stars\" title=\"{whole}.{rest} of 5\">{drawn} {whole}.{rest}</p>")
}

/// Text as it may stand in HTML and in quoted attributes.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::{Notice, Page, escaped, stars};
    use crate::error::{ApiError, Code};
    use crate::money::Cents;
    use crate::product::Product;
    use crate::user::User;

    fn page(is_open: bool) -> Page {
        let product = |id, stock, rating_tenths| Product {
            id,
            name: "<b>Loom</b>".to_owned(),
            description: "\"quoted\"".to_owned(),
            price_cents: Cents(1450),
            stock,
            rating_tenths,
        };
        Page {
            user: Some(User { id: 1, name: "A & B".to_owned(), email: String::new() }),
            orders: Vec::new(),
            products: vec![product(1, 5, None), product(2, 0, Some(46))],
            is_open,
            notices: vec![Notice::error(&ApiError::new(Code::Internal, "<script>"))],
            key: Some("k".to_owned()),
        }
    }

    #[test]
    fn nothing_from_data_becomes_markup() {
        let html = page(true).html();
        assert!(!html.contains("<b>Loom") && !html.contains("<script>") && html.contains("A &amp; B"));
        assert_eq!(escaped("'\"<>&ü"), "&#39;&quot;&lt;&gt;&amp;ü");
    }

    #[test]
    fn only_what_is_there_can_be_ordered() {
        let html = page(true).html();
        assert!(html.contains("value=\"k-1\"") && !html.contains("value=\"k-2\"") && html.contains("sold out"));
        assert!(html.contains("★★★★★ 4.6") && html.contains("€ 14.50"));
        assert!(!page(false).html().contains("action=\"/orders\""));
    }

    #[test]
    fn stars_round_and_never_overflow() {
        assert!(stars(44).contains("★★★★☆ 4.4"));
        assert!(stars(1000).contains("★★★★★ 5.0") && stars(-7).contains("☆☆☆☆☆ 0.0"));
    }
}
