// A timer that goes on in a tab that is not looked at.
setInterval(() => postMessage(0), 25);
