"use strict";
(() => {
  const { tryIt, questions, unasked } = JSON.parse(document.getElementById("reference-settings").textContent);

  const matcher = (operation) => {
    const [method, path] = operation.split(" ");
    const pattern = path
      .split(/\{[^}]+\}/)
      .map((piece) => piece.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))
      .join("[^/]+");
    const route = new RegExp(`^${pattern}/?$`);
    return (request, url) => request.method.toUpperCase() === method && route.test(url.pathname);
  };
  const asked = Object.entries(questions).map(([operation, question]) => [matcher(operation), question]);
  const harmless = unasked.map(matcher);

  const questionFor = (request, url) => {
    if (["GET", "HEAD"].includes(request.method.toUpperCase())) return null;
    const known = asked.find(([matches]) => matches(request, url));
    if (known) return known[1];
    return harmless.some((matches) => matches(request, url)) ? null : "It changes something on the server.";
  };

  const send = (request) => {
    const url = new URL(request.url, location.href);
    if (url.origin !== location.origin) throw new Error("Not sent: this console speaks to its own gateway only.");
    request.credentials = "omit";
    if (request.loadSpec) return request;
    const question = questionFor(request, url);
    if (question && !confirm(`${request.method.toUpperCase()} ${url.pathname}\n\n${question}\n\nSend it?`)) {
      throw new Error("Not sent.");
    }
    return request;
  };

  const page = ({ React }) => {
    const element = React.createElement;
    // Swagger UI's own layout repeats the title, offers servers where there is one, and calls itself a second <main>
    const Page = ({ getComponent, specSelectors }) => {
      const part = (name) => element(getComponent(name, true));
      if (specSelectors.loadingStatus() === "failed") return element("p", null, "The OpenAPI document could not be read.");
      if (!specSelectors.specStr()) return element("p", null, "Reading the OpenAPI document…");
      return element(
        "div",
        { className: "swagger-ui" },
        tryIt ? element("div", { className: "wrapper" }, part("AuthorizeBtnContainer")) : null,
        element("div", { className: "wrapper" }, part("operations")),
      );
    };
    return {
      components: { Page },
      wrapComponents: {
        // a link within the button that opens an operation: two things to press, one in the other
        DeepLink: () => ({ text }) => element("span", null, text),
        ...(tryIt ? {} : { authorizeOperationBtn: () => () => null }),
      },
    };
  };
  SwaggerUIBundle({
    url: "/openapi.json",
    domNode: document.getElementById("swagger-ui"),
    presets: [SwaggerUIBundle.presets.apis],
    plugins: [page],
    layout: "Page",
    deepLinking: true,
    docExpansion: "list",
    // a picture of another host that tells it our document's address
    validatorUrl: null,
    // localStorage otherwise
    persistAuthorization: false,
    // else `?url=` in the address chooses whose API this page shows
    queryConfigEnabled: false,
    supportedSubmitMethods: tryIt ? ["get", "put", "post", "delete", "patch"] : [],
    requestInterceptor: send,
  });
})();
