// Answers: which questions and whose answers are shown. The baselines' stay, as that is what the others are held against.
function setUpAnswers(section, filters) {
  const asked = [...section.querySelectorAll(".asked")].map((place) => ({
    place,
    folded: place.querySelector("details"),
    questions: [...place.querySelectorAll(".question")].map((article) => ({ article, text: article.textContent.toLowerCase() })),
  }));
  const answers = [...section.querySelectorAll(".question [data-owner]")];
  const baselines = ["before", "retain_model"];

  function choose() {
    const wanted = Object.fromEntries(new FormData(filters)), text = wanted.text.trim().toLowerCase();
    section.classList.toggle("unmarked", !wanted.marks);
    for (const answer of answers) answer.hidden = Boolean(wanted.method) && ![wanted.method, ...baselines].includes(answer.dataset.owner);
    let found = 0;
    for (const { place, folded, questions } of asked) {
      const fits = !wanted.set || place.dataset.set === wanted.set;
      const here = questions.filter((one) => {
        one.article.hidden = !fits || !one.text.includes(text);
        return !one.article.hidden;
      });
      place.hidden = !here.length;
      if (folded && text) folded.open = true;
      found += here.length;
    }
    const all = asked.reduce((sum, { questions }) => sum + questions.length, 0);
    filters.querySelector("[role=status]").textContent = found === all ? "" : `${counted(found, "question")} of ${all}`;
  }
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", choose);
  filters.addEventListener("change", choose);
}

const answerFilters = document.querySelector("#answers .filters");
if (answerFilters) setUpAnswers(document.getElementById("answers"), answerFilters);
