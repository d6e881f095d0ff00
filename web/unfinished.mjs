// The command that clears out what cancelled runs and killed writers left behind.
const TITLE = "Meta-LoRA";
const ROUTE = "/metalora/unfinished";

/** Say how much there is to delete, ask, and delete it. */
export async function deleteUnfinished(app, api, words) {
  const { dialog, toast } = app.extensionManager;
  const asked = async (method) => {
    const answer = await api.fetchApi(ROUTE, { method });
    if (!answer.ok) throw new Error(`${ROUTE}: ${answer.status}`);
    return answer.json();
  };
  const tell = (detail) => toast.add({ severity: "info", summary: TITLE, detail, life: 5000 });
  const found = await asked("GET");
  if (!found.files) return tell(words.nothingUnfinished);
  if (await dialog.confirm({ title: TITLE, message: words.askUnfinished(found) })) tell(words.deletedUnfinished(await asked("DELETE")));
}
