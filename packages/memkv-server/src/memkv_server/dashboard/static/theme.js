// SPDX-License-Identifier: Apache-2.0
// Before anything is painted: the theme that was chosen on this browser, or else the system's.
"use strict";
(() => {
  const chosen = localStorage.getItem("memkv-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
