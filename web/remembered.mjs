// What the server remembers of a workflow's runs, for panels of a page that was reloaded or another tab's until now.
const RUNS = 32;
const ENDS = ["execution_error", "execution_interrupted"];

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
  return told;
}
