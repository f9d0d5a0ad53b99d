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

  // thrown here it would leave Swagger UI without a request to show; as an answer it is shown
  const unsent = (request, why) => Object.assign(request, { userFetch: () => Promise.reject(new Error(why)) });

  const send = (request) => {
    const url = new URL(request.url, location.href);
    request.credentials = "omit";
    if (url.origin !== location.origin) return unsent(request, "Not sent: this console speaks to its own gateway only.");
    const question = request.loadSpec ? null : questionFor(request, url);
    const words = `${request.method} ${url.pathname}\n\n${question}\n\nSend it?`;
    return question === null || confirm(words) ? request : unsent(request, "Not sent.");
  };

  const withoutHeaderExamples = (document) => {
    for (const operation of Object.values(document.paths ?? {}).flatMap(Object.values)) {
      for (const parameter of operation.parameters ?? []) if (parameter.in === "header") delete parameter.example;
    }
    return document;
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
      statePlugins: {
        spec: {
          wrapActions: {
            // examples fill in the form, and the same Idempotency-Key for everything would make a repeat of all that follows
            updateJsonSpec: (original) => (document) => original(withoutHeaderExamples(document)),
          },
        },
      },
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
