"use strict";
const button = document.getElementById("copy");
const field = document.getElementById("code");
const status = document.getElementById("status");
button.hidden = false;
button.addEventListener("click", async () => {
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    status.textContent = "Copied.";
  } catch {
    status.textContent = "Selected. Copy it with your keyboard.";
  }
});
