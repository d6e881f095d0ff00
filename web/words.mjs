// What the panels themselves say, in the page's language; reports and errors arrive from the server as they are.
const WORDS = {
  en: {
    step: (step, steps) => `Step ${step} of ${steps}`,
    loss: (loss) => `, loss ${loss}`,
    failed: (reason) => `Failed: ${reason}`,
    cancelled: (place) => `Cancelled${place ? ` at ${place}` : ""}. Queue again to resume.`,
  },
  ja: {
    step: (step, steps) => `ステップ ${step} / ${steps}`,
    loss: (loss) => `、損失 ${loss}`,
    failed: (reason) => `失敗しました: ${reason}`,
    cancelled: (place) => `${place ? `${place} で` : ""}中止しました。もう一度キューに入れると続きから再開します。`,
  },
};

/** The panels' words in a language, or in English. */
export const wordsIn = (locale) => WORDS[locale] ?? WORDS.en;
