// Examples name the gateway that the page came from, so that what is copied runs as it is.
{
  const PLACEHOLDER = "https://gateway.example";
  addEventListener("DOMContentLoaded", () => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode;
      if (text.data.includes(PLACEHOLDER)) text.data = text.data.replaceAll(PLACEHOLDER, location.origin);
    }
  });
}
