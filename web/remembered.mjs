// What the server remembers of a workflow's runs, for panels of a page that was reloaded or another tab's until now.
const RUNS = 32;
const ENDS = ["execution_error", "execution_interrupted"];

/** By prompt id, what nodes told in runs that this page queued: the history has a run only once it has ended. */
const running = new Map();

function runOf(id) {
  if (!running.has(id)) running.set(id, { outputs: {} });
  return running.get(id);
}

/** Note which prompt the server has queued: {output: its nodes, workflow: the page's graph}. */
export const noteQueued = (id, { output, workflow }) => Object.assign(runOf(id), { nodes: output, workflow: workflow?.id });

/** Note what a node told, from the server's event. */
export const noteOutput = ({ prompt_id, node, output }) => (runOf(prompt_id).outputs[node] = output);

/** Note that a run has ended: the history has it now. */
export const noteEnd = ({ prompt_id }) => running.delete(prompt_id);

/** The runs of a workflow, the oldest first, as the server's history tells them. */
async function runsOf(api, graph) {
  const answer = await api.fetchApi(`/history?max_items=${RUNS}`);
  const runs = Object.values(await answer.json());
  // A page of 2025 may not number its workflows; the node's type is then all there is to go by.
  return runs.filter(({ prompt }) => (prompt[3]?.extra_pnginfo?.workflow?.id ?? graph.id) === graph.id);
}

/**
 * The last thing that each node of a workflow told.
 *
 * @returns {Promise<Map<string, {type: string, output?: object, end?: {kind: string, detail: object}}>>} By the
 *   server's node id; a node that failed or was cancelled last has an end, any other its output.
 */
export async function remembered(api, graph) {
  const told = new Map();
  for (const { prompt, outputs, status } of await runsOf(api, graph)) {
    const type = (id) => prompt[2][id]?.class_type;
    for (const [id, output] of Object.entries(outputs)) told.set(id, { type: type(id), output });
    for (const [kind, detail] of status?.messages ?? [])
      if (ENDS.includes(kind)) told.set(String(detail.node_id), { type: detail.node_type, end: { kind, detail } });
  }
  for (const { nodes, workflow, outputs } of running.values())
    if ((workflow ?? graph.id) === graph.id)
      for (const [id, output] of Object.entries(outputs)) told.set(id, { type: nodes?.[id]?.class_type, output });
  return told;
}
