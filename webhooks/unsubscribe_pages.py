"""The pages behind the link in a letter, complete in themselves, in the languages of the letters."""

from __future__ import annotations

import base64
import hashlib
import re

_STYLE = """
:root { color-scheme: light dark; --paper: #f6f3ee; --card: #fff; --ink: #2b2622; --soft: #6b625a;
  --line: #e7e0d6; --accent: #b4482e; --on-accent: #fff }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1b1917; --card: #262320; --ink: #f1ece5; --soft: #b3a99e; --line: #3a3530;
    --accent: #f0957b; --on-accent: #2a120b }
}
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; min-height: 100svh; display: grid; place-items: center; padding: 1.25rem;
  background: var(--paper); color: var(--ink); font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif }
main { width: 100%; max-width: 27rem; padding: 2.5rem 2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 1.25rem; text-align: center; box-shadow: 0 1rem 3rem -1.5rem rgb(0 0 0 / .25) }
svg { width: 3.5rem; height: 3.5rem; color: var(--accent) }
h1 { margin: .75rem 0 .5rem; font-size: 1.5rem; line-height: 1.25; text-wrap: balance }
p { margin: .5rem 0; text-wrap: pretty }
small { display: block; margin-top: 1.5rem; color: var(--soft); font-size: .9375rem; text-wrap: pretty }
form { margin-top: 1.5rem; display: grid; gap: .75rem }
button { width: 100%; padding: .875rem 1.25rem; border: 2px solid var(--accent); border-radius: .75rem;
  background: var(--accent); color: var(--on-accent); font: inherit; font-weight: 600; line-height: 1.35;
  text-wrap: balance; cursor: pointer }
button[value=group] { background: none; color: var(--accent) }
button:hover { filter: brightness(1.08) }
button:focus-visible { outline: 3px solid var(--ink); outline-offset: 3px }
"""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Language",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}

_ENVELOPE = '<rect x="6" y="12" width="36" height="25" rx="4"/><path d="m7 15 17 13 17-13"/>'
_TICK = '<circle cx="24" cy="24" r="18"/><path d="m16 24.5 5.5 5.5 11-12"/>'
_WARNING = '<circle cx="24" cy="24" r="18"/><path d="M24 14v13m0 6v.5"/>'

_SHAPES = {
    "ask": (_ENVELOPE, {"all": "stop_all"}),
    "choose": (_ENVELOPE, {"group": "only_group", "all": "all"}),
    "done": (_TICK, {}),
    "done_with_group": (_TICK, {"all": "stop_all"}),
    "unknown": (_WARNING, {}),
    "try_again": (_WARNING, {"all": "again"}),
    "try_group_again": (_WARNING, {"group": "again"}),
}
"""Of each page the picture, and its buttons: what they send as `scope`, and the words on them."""

_WORDS: dict[str, dict[str, str]] = {
    "en": {
        "ask": "Stop these letters?",
        "ask_text": "One click, and you get no more promotional letters of this community. No sign-in, no questions.",
        "ask_note": "Rather stay? Just close this page. Nothing has changed so far.",
        "choose": "What would you like to stop?",
        "choose_text": "One click, and it is done. No sign-in, no questions.",
        "only_group": "Only the letters of this group",
        "all": "All promotional letters of this community",
        "stop_all": "Stop all promotional letters",
        "done": "You are unsubscribed",
        "done_text": "You get no more promotional letters of this community. Its website is told as well, which ends "
        "our other letters to you, too.",
        "done_with_group": "No more letters of this group",
        "done_with_group_text": "You get no more letters of this group. Those of the community’s other groups go on, "
        "unless you stop them here.",
        "done_note": "A letter that is already on its way may still arrive. You remain a member of your groups, and "
        "you can close this page now.",
        "unknown": "This link does not work",
        "unknown_text": "It may have been cut off on its way to you. Please open the unsubscribe link in the letter "
        "once more, or copy the whole of it.",
        "unknown_note": "Nothing has changed.",
        "try_again": "That did not work just now",
        "try_again_text": "You are not unsubscribed yet: our records are out of reach for a moment. We are sorry. "
        "Please try again in a minute.",
        "again": "Try again",
        "try_again_note": "The link in your letter keeps working as well.",
    },
    "de": {
        "ask": "Diese Mails abbestellen?",
        "ask_text": "Ein Klick, und du bekommst keine Werbemails dieser Community mehr. Ohne Anmeldung, ohne "
        "Rückfragen.",
        "ask_note": "Doch lieber bleiben? Schließ einfach diese Seite. Bisher hat sich nichts geändert.",
        "choose": "Was möchtest du abbestellen?",
        "choose_text": "Ein Klick genügt. Ohne Anmeldung, ohne Rückfragen.",
        "only_group": "Nur die Mails dieser Gruppe",
        "all": "Alle Werbemails dieser Community",
        "stop_all": "Alle Werbemails abbestellen",
        "done": "Du bist abgemeldet",
        "done_text": "Du bekommst keine Werbemails dieser Community mehr. Auch ihre Website erfährt davon, damit enden "
        "auch unsere übrigen Mails an dich.",
        "done_with_group": "Keine Mails dieser Gruppe mehr",
        "done_with_group_text": "Du bekommst keine Mails dieser Gruppe mehr. Die der anderen Gruppen kommen weiter, "
        "es sei denn, du bestellst sie hier ab.",
        "done_note": "Eine Mail, die schon unterwegs ist, kann noch ankommen. Du bleibst Mitglied deiner Gruppen und "
        "kannst diese Seite jetzt schließen.",
        "unknown": "Dieser Link funktioniert nicht",
        "unknown_text": "Vielleicht ist er unterwegs abgeschnitten worden. Bitte öffne den Abmeldelink in der Mail "
        "noch einmal oder kopiere ihn vollständig.",
        "unknown_note": "Es hat sich nichts geändert.",
        "try_again": "Das hat gerade nicht geklappt",
        "try_again_text": "Du bist noch nicht abgemeldet: Wir kommen für einen Moment nicht an unsere Daten. Das tut "
        "uns leid. Bitte versuch es in einer Minute noch einmal.",
        "again": "Noch einmal versuchen",
        "try_again_note": "Auch der Link in deiner Mail funktioniert weiterhin.",
    },
    "es": {
        "ask": "¿Dejar de recibir estos correos?",
        "ask_text": "Un clic y no recibirás más correos promocionales de esta comunidad. Sin iniciar sesión y sin "
        "preguntas.",
        "ask_note": "¿Prefieres quedarte? Cierra esta página. Hasta ahora no ha cambiado nada.",
        "choose": "¿Qué quieres dejar de recibir?",
        "choose_text": "Basta un clic. Sin iniciar sesión y sin preguntas.",
        "only_group": "Solo los correos de este grupo",
        "all": "Todos los correos promocionales de esta comunidad",
        "stop_all": "No recibir más correos promocionales",
        "done": "Te has dado de baja",
        "done_text": "No recibirás más correos promocionales de esta comunidad. También avisamos a su sitio web, y con "
        "eso terminan los demás correos que te enviamos.",
        "done_with_group": "No más correos de este grupo",
        "done_with_group_text": "No recibirás más correos de este grupo. Los de los demás grupos seguirán llegando, "
        "salvo que aquí te des de baja de todos.",
        "done_note": "Un correo que ya está en camino aún puede llegar. Sigues siendo miembro de tus grupos y ya "
        "puedes cerrar esta página.",
        "unknown": "Este enlace no funciona",
        "unknown_text": "Quizá se cortó por el camino. Abre otra vez el enlace para darte de baja que está en el "
        "correo, o cópialo entero.",
        "unknown_note": "No ha cambiado nada.",
        "try_again": "Ahora mismo no ha funcionado",
        "try_again_text": "Todavía no te has dado de baja: por un momento no podemos acceder a nuestros registros. Lo "
        "sentimos. Inténtalo de nuevo dentro de un minuto.",
        "again": "Intentar de nuevo",
        "try_again_note": "El enlace de tu correo también sigue funcionando.",
    },
    "fr": {
        "ask": "Ne plus recevoir ces e-mails ?",
        "ask_text": "Un clic, et vous ne recevrez plus d’e-mails promotionnels de cette communauté. Sans connexion, "
        "sans questions.",
        "ask_note": "Vous préférez rester ? Fermez simplement cette page. Rien n’a changé pour l’instant.",
        "choose": "Que souhaitez-vous ne plus recevoir ?",
        "choose_text": "Un clic suffit. Sans connexion, sans questions.",
        "only_group": "Seulement les e-mails de ce groupe",
        "all": "Tous les e-mails promotionnels de cette communauté",
        "stop_all": "Ne plus recevoir d’e-mails promotionnels",
        "done": "Votre désabonnement est fait",
        "done_text": "Vous ne recevrez plus d’e-mails promotionnels de cette communauté. Son site en est informé "
        "aussi, ce qui met fin à nos autres e-mails.",
        "done_with_group": "Plus d’e-mails de ce groupe",
        "done_with_group_text": "Vous ne recevrez plus d’e-mails de ce groupe. Ceux des autres groupes continuent, "
        "sauf si vous les arrêtez ici.",
        "done_note": "Un e-mail déjà en route peut encore arriver. Vous restez membre de vos groupes et pouvez "
        "fermer cette page.",
        "unknown": "Ce lien ne fonctionne pas",
        "unknown_text": "Il a peut-être été coupé en chemin. Ouvrez encore une fois le lien de désabonnement de "
        "l’e-mail, ou copiez-le en entier.",
        "unknown_note": "Rien n’a changé.",
        "try_again": "Cela n’a pas fonctionné",
        "try_again_text": "Vous n’êtes pas encore désabonné(e) : nos données sont momentanément hors d’atteinte. "
        "Veuillez nous excuser et réessayer dans une minute.",
        "again": "Réessayer",
        "try_again_note": "Le lien de votre e-mail continue aussi de fonctionner.",
    },
    "he": {
        "ask": "להפסיק לקבל את ההודעות האלה?",
        "ask_text": "לחיצה אחת, ולא יגיעו עוד הודעות שיווקיות מהקהילה הזאת. בלי להתחבר ובלי שאלות.",
        "ask_note": "עדיף להישאר? אפשר פשוט לסגור את הדף. עד כה לא השתנה דבר.",
        "choose": "מה להפסיק לשלוח?",
        "choose_text": "לחיצה אחת וזהו. בלי להתחבר ובלי שאלות.",
        "only_group": "רק את ההודעות של הקבוצה הזאת",
        "all": "את כל ההודעות השיווקיות של הקהילה הזאת",
        "stop_all": "להפסיק את כל ההודעות השיווקיות",
        "done": "ההסרה בוצעה",
        "done_text": "לא יגיעו עוד הודעות שיווקיות מהקהילה הזאת. גם האתר שלה יקבל על כך עדכון, וכך ייפסקו גם שאר "
        "ההודעות שלנו אליך.",
        "done_with_group": "לא יגיעו עוד הודעות מהקבוצה הזאת",
        "done_with_group_text": "ההודעות של הקבוצות האחרות בקהילה ימשיכו להגיע, אלא אם מפסיקים אותן כאן.",
        "done_note": "הודעה שכבר בדרך עוד עשויה להגיע. החברות שלך בקבוצות נשארת, ואפשר לסגור את הדף.",
        "unknown": "הקישור הזה לא עובד",
        "unknown_text": "ייתכן שהוא נחתך בדרך. אפשר לפתוח שוב את קישור ההסרה שבהודעה, או להעתיק אותו במלואו.",
        "unknown_note": "לא השתנה דבר.",
        "try_again": "זה לא הצליח כרגע",
        "try_again_text": "ההסרה עדיין לא בוצעה: אין לנו לרגע גישה לנתונים, ואנחנו מצטערים. אפשר לנסות שוב בעוד דקה.",
        "again": "לנסות שוב",
        "try_again_note": "גם הקישור שבהודעה ממשיך לעבוד.",
    },
}
_SHARED = {
    "choose_note": "ask_note",
    "done_with_group_note": "done_note",
    "try_group_again": "try_again",
    "try_group_again_text": "try_again_text",
    "try_group_again_note": "try_again_note",
}
"""What one page says in the words of another."""

_RIGHT_TO_LEFT = ("he",)
_FORMER_TAGS = {"iw": "he"}


def _kept_together(text: str) -> str:
    """No line begins with French punctuation, none ends within "e-mail"."""
    return text.replace(" ?", "&nbsp;?").replace(" :", "&nbsp;:").replace("e-mail", "e&#8209;mail")


def _html(language: str, name: str) -> str:
    words = {name: _kept_together(text) for name, text in _WORDS[language].items()}
    words |= {ours: words[theirs] for ours, theirs in _SHARED.items()}
    icon, buttons = _SHAPES[name]
    inside = "\n".join(
        f'<button name="scope" value="{scope}">{words[label]}</button>' for scope, label in buttons.items()
    )
    form = f'<form method="post">\n{inside}\n</form>' if buttons else ""
    return f"""<!doctype html>
<html lang="{language}" dir="{"rtl" if language in _RIGHT_TO_LEFT else "ltr"}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex, nofollow">
<title>{words[name]}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<svg viewBox="0 0 48 48" fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round"
 stroke-linejoin="round" aria-hidden="true">{icon}</svg>
<h1>{words[name]}</h1>
<p>{words[f"{name}_text"]}</p>
{form}
<small>{words[f"{name}_note"]}</small>
</main>
</body>
</html>
"""


PAGES = {(language, name): _html(language, name) for language in _WORDS for name in _SHAPES}
"""By language and name."""


def preferred_language(accepted: str) -> str:
    """The dearest language of an Accept-Language header that there are pages in (RFC 9110, 12.5.4): of equals the
    first, English when there is none."""
    best, best_quality = "en", 0.0
    for wish in accepted[:1000].split(","):
        tag, _, parameter = wish.partition(";")
        language = tag.strip().lower().partition("-")[0]
        language = _FORMER_TAGS.get(language, language)
        weight = re.fullmatch(r"\s*q=([01](?:\.\d{0,3})?)\s*", parameter, re.IGNORECASE)
        quality = float(weight[1]) if weight else 0.0 if parameter.strip() else 1.0
        if language in _WORDS and quality > best_quality:
            best, best_quality = language, quality
    return best
