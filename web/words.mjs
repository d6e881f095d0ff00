// What the panels themselves say, in the page's language; reports and errors arrive from the server as they are.
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

const WORDS = {
  en: {
    step: (step, steps) => `Step ${step} of ${steps}`,
    loss: (loss) => `, loss ${loss}`,
    failed: (reason) => `Failed: ${reason}`,
    cancelled: (place) => `Cancelled${place ? ` at ${place}` : ""}. Queue again to resume.`,
    samples: "Sample pictures by step",
    sample: (step, steps) => `Step ${step} of ${steps}: use it`,
    used: (step, steps) => `Step ${step} of ${steps} is used.`,
    next: (step, steps) => `The next run uses step ${step} of ${steps}. Nothing is trained again.`,
    nothingUnfinished: "There are no unfinished runs older than an hour.",
    askUnfinished: ({ files, bytes }) =>
      `Unfinished runs, unused steps and temporary files: ${files} (${megabytes(bytes)} MB). Delete them? A cancelled run among them starts over when it is queued again.`,
    deletedUnfinished: ({ files, bytes }) => `Deleted: ${files} (${megabytes(bytes)} MB).`,
    drop: "Drop photos here, paste them, or click to choose",
    more: "Add photos",
    remove: "Remove",
    earlier: "Move forward",
    later: "Move back",
    caption: "caption",
    captionHelp: "What this photo shows. Empty: the node's caption.",
    noPicture: "No picture was among these files.",
    uploading: (count) => `Uploading ${count} ${count === 1 ? "photo" : "photos"} …`,
    notUploaded: (name, reason) => `${name} could not be uploaded: ${reason}`,
    verdicts: { good: "Good", check: "Check", unusable: "Unusable" },
  },
  ja: {
    step: (step, steps) => `ステップ ${step} / ${steps}`,
    loss: (loss) => `、損失 ${loss}`,
    failed: (reason) => `失敗しました: ${reason}`,
    cancelled: (place) => `${place ? `${place} で` : ""}中止しました。もう一度キューに入れると続きから再開します。`,
    samples: "ステップごとの途中画像",
    sample: (step, steps) => `ステップ ${step} / ${steps} を使う`,
    used: (step, steps) => `ステップ ${step} / ${steps} を使っています。`,
    next: (step, steps) => `次の実行ではステップ ${step} / ${steps} を使います。学習はやり直しません。`,
    nothingUnfinished: "1 時間以上前の未完了の学習はありません。",
    askUnfinished: ({ files, bytes }) =>
      `未完了の学習、使っていないステップ、一時ファイルを ${files} 件（${megabytes(bytes)} MB）削除しますか？ この中に中止した学習があると、次は最初からになります。`,
    deletedUnfinished: ({ files, bytes }) => `${files} 件、${megabytes(bytes)} MB を削除しました。`,
    drop: "写真をここにドロップ、貼り付け、またはクリックして選択",
    more: "写真を追加",
    remove: "取り除く",
    earlier: "前へ",
    later: "後ろへ",
    caption: "キャプション",
    captionHelp: "この写真の内容。空ならノードのキャプションを使います。",
    noPicture: "これらのファイルに画像はありませんでした。",
    uploading: (count) => `写真 ${count} 枚をアップロード中…`,
    notUploaded: (name, reason) => `${name} をアップロードできませんでした: ${reason}`,
    verdicts: { good: "良好", check: "要確認", unusable: "使えません" },
  },
};

/** The panels' words in a language, or in English. */
export const wordsIn = (locale) => WORDS[locale] ?? WORDS.en;
