import "./styles/colours.css";
import "./styles/page.css";
import "./styles/views.css";
import { App } from "./app.ts";

new App().start();
