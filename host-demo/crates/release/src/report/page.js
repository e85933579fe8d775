'use strict';
// Sorts and filters the table of devices. How it is shown stands in the address's fragment, and
// whatever is clicked or typed goes through it: a link leads to what somebody saw.
(() => {
  const table = document.getElementById('devices');
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const keys = heads.map((head) => head.dataset.key);
  const rows = Array.from(body.rows);
  const form = document.getElementById('show');
  const { q, outcome, sort, everything } = form.elements;
  const shown = form.querySelector('output');
  const all = { sort: 'n', dir: 'up', q: '', outcome: '', error: '' };
  let order = 'n up';
  let texts;

  const read = () => {
    const state = { ...all };
    for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
      if (name in state) state[name] = value;
    }
    if (!keys.includes(state.sort)) state.sort = all.sort;
    return state;
  };

  // Numbers by their size, outcomes by what they want done, all else as text; nothing comes last.
  const sorted = (key, isDown) => {
    const at = keys.indexOf(key);
    const isNumber = key === 'n' || key === 'requests';
    const value = (row) => {
      if (key === 'outcome') return Number(row.dataset.o);
      const text = row.cells[at].textContent;
      return isNumber ? Number(text) : text;
    };
    const collator = new Intl.Collator('en', { numeric: true });
    const compare = key === 'outcome' || isNumber ? (a, b) => a - b : collator.compare;
    const isNone = (value) => value === '';
    return rows
      .map((row, n) => ({ row, n, value: value(row) }))
      .sort((a, b) =>
        isNone(a.value) - isNone(b.value) ||
        (isDown ? compare(b.value, a.value) : compare(a.value, b.value)) ||
        a.n - b.n)
      .map(({ row }) => row);
  };

  const show = (state) => {
    const isDown = state.dir === 'down';
    const wanted = `${state.sort} ${state.dir}`;
    if (order !== wanted) {
      const fragment = document.createDocumentFragment();
      for (const row of sorted(state.sort, isDown)) fragment.append(row);
      body.append(fragment);
      order = wanted;
    }
    heads.forEach((head, n) => {
      const way = isDown ? 'descending' : 'ascending';
      if (keys[n] === state.sort) head.setAttribute('aria-sort', way);
      else head.removeAttribute('aria-sort');
    });
    const text = state.q.trim().toLowerCase();
    if (text) texts ??= rows.map((row) => row.textContent.toLowerCase());
    const option = Array.from(outcome.options).find((option) => option.value === state.outcome);
    const number = option?.dataset.o ?? '';
    let count = 0;
    rows.forEach((row, n) => {
      const isShown =
        (!number || row.dataset.o === number) &&
        (!state.error || row.dataset.e === state.error) &&
        (!text || texts[n].includes(text));
      if (row.hidden === isShown) row.hidden = !isShown;
      count += isShown;
    });
    if (q.value !== state.q) q.value = state.q;
    outcome.value = option ? state.outcome : '';
    sort.value = wanted;
    const [some, every] = [count, rows.length].map((n) => n.toLocaleString('en'));
    shown.value = some === every ? `all ${every} devices` : `${some} of ${every} devices`;
    everything.hidden = count === rows.length;
  };

  const go = (change) => {
    const state = { ...read(), ...change };
    const said = Object.entries(state).filter(([name, value]) => value !== all[name]);
    // Without a step back for every letter typed.
    history.replaceState(null, '', `#${new URLSearchParams(said)}`);
    show(state);
  };

  // A link to a device leads to it, whatever is hidden.
  const follow = () => {
    show(read());
    if (/^#d\d+$/.test(location.hash)) {
      document.getElementById(location.hash.slice(1))?.scrollIntoView();
    }
  };

  heads.forEach((head, n) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const state = read();
      const isAgain = state.sort === keys[n];
      go({ sort: keys[n], dir: isAgain && state.dir === 'up' ? 'down' : 'up' });
    });
    for (const [dir, way] of [['up', 'ascending'], ['down', 'descending']]) {
      const option = document.createElement('option');
      option.value = `${keys[n]} ${dir}`;
      option.textContent = `${button.textContent}, ${way}`;
      sort.append(option);
    }
  });
  let typing;
  q.addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => go({ q: q.value }), 120);
  });
  outcome.addEventListener('change', () => go({ outcome: outcome.value, error: '' }));
  sort.addEventListener('change', () => {
    const [key, dir] = sort.value.split(' ');
    go({ sort: key, dir });
  });
  everything.addEventListener('click', () => go({ q: '', outcome: '', error: '' }));
  form.addEventListener('submit', (event) => event.preventDefault());
  addEventListener('hashchange', follow);
  form.hidden = false;
  follow();
})();
