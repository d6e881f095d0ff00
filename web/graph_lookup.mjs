/**
 * Find a node by the id that the server uses; "12:5" is node 5 inside the subgraph node 12.
 *
 * @param {object} graph The page's root graph.
 * @param {string|number} id The server's id.
 * @returns {object|undefined}
 */
export function nodeAt(graph, id) {
  const [first, ...rest] = String(id).split(":");
  const node = graph?.getNodeById(Number(first)) ?? graph?.getNodeById(first);
  return rest.length && node ? nodeAt(node.subgraph, rest.join(":")) : (node ?? undefined);
}
