// What can be undone, and done again: the last states, as `take()` gives them.

const MOST = 50;

export class History {
  constructor(take, put) {
    Object.assign(this, { take, put, past: [], future: [] });
  }

  // To be called before a change.
  remember() {
    this.past.push(this.take());
    if (this.past.length > MOST) this.past.shift();
    this.future = [];
  }

  undo() { return this.move(this.past, this.future); }

  redo() { return this.move(this.future, this.past); }

  clear() { this.past = [], this.future = []; }

  // Whether there was anything.
  move(from, to) {
    if (!from.length) return false;
    to.push(this.take());
    this.put(from.pop());
    return true;
  }
}
