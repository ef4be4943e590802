"""Patterns of refusals and regret in languages other than English, over folded text.

Folded text is lower case and has no accents on Latin letters. Each language has a modest number of
phrases in which a first person says that it cannot, will not or may not help.
"""

from __future__ import annotations

_GERMAN = (
    r"(?:(?:\w+ ){0,3}?(?:kann|darf|werde|mochte|will|mache|tue) ich|"
    r"ich (?:kann|darf|werde|mochte|will))\b(?: \w+){0,8}? (?:nicht$|(?:nicht|kein\w*)\b"
    r"(?: \w+){0,6}? (?:helf\w*|unterstutz\w*|weiterhelf\w*|behilflich|tun|machen|schreib\w*|"
    r"beantwort\w*|bereitstell\w*|geben|weitergeb\w*|erfull\w*|antwort\w*|erstell\w*|erklar\w*|"
    r"verrat\w*|anbiet\w*|nachkomm\w*|eingeh\w*|leist\w*|mitmach\w*))|"
    r"ich (?:bin (?:\w+ ){0,3}?nicht (?:in der lage|befugt|bereit)|muss (?:\w+ ){0,4}ablehnen|"
    r"lehne .{0,60}\bab\b|weigere mich|verweigere)|(?:das|es) ist mir nicht (?:moglich|erlaubt|"
    r"gestattet)"
)
_FRENCH = (
    r"je ne (?:peux|puis|vais|veux|pourrai|souhaite) pas (?:\w+ ){0,3}?(?:\w'|vous |t'|te )?"
    r"(?:aider|fourni|faire|repond|ecri|donn|satisf|assist|cre|gener|partag|expliqu|particip|"
    r"acced|continu|traiter|discut)|je ne (?:fournis|donne|cree|partage|redige) pas|"
    r"je ne suis pas (?:en mesure|autorise|capable|habilite)|je (?:refuse|decline)|"
    r"je prefere ne pas|je (?:dois|suis oblige\w* de) (?:refuser|decliner)|il m'est impossible|"
    r"(?:ce|cela) n'est pas (?:quelque chose|une chose) que je"
)
_SPANISH = (
    r"(?:me temo que )?no (?:(?:te|le|os|les) )?(?:puedo|podre|podemos|voy a|quiero|debo|"
    r"me es posible) (?:\w+ ){0,2}?(?:ayud|proporcion|cumpl|respond|escrib|ofrec|dar|hacer|gener|"
    r"crear|compart|explic|asist|particip|contest|brind|complet|facilit|segu|continu|habl|discut)|"
    r"no (?:estoy (?:en condiciones|autorizad|en posicion|dispuest)|soy capaz|tengo permi)|"
    r"me niego|prefiero no|debo (?:rechazar|negarme|declinar)|tengo que (?:rechazar|negarme)|"
    r"(?:eso|esto) no es algo que pued"
)
_ITALIAN = (
    r"non (?:posso|potro|voglio|intendo|mi e (?:possibile|consentito|permesso)|ho intenzione di) "
    r"(?:\w+ ){0,2}?(?:aiut|forni|far|rispond|scriv|dar|crea|gener|condivid|spieg|assist|partecip|"
    r"soddisf|prosegu|continu|offri|discut)|non (?:sono (?:in grado|autorizzat|dispost)|"
    r"me la sento)|mi rifiuto|preferisco non|devo (?:rifiutar|declinar)"
)
_PORTUGUESE = (
    r"(?:eu )?nao (?:te |lhe |o |a )?(?:posso|consigo|vou|quero|devo|poderei|"
    r"me e (?:possivel|permitido)) (?:\w+ ){0,2}?(?:ajud|fornec|faz|respond|escrev|dar|cri|ger|"
    r"compartilh|explic|auxili|particip|atend|cumpr|oferec|continu|discut)|"
    r"(?:eu )?nao (?:estou (?:autorizad|em condicoes|dispost)|sou capaz|tenho permiss)|"
    r"(?:eu )?me recuso|recuso-me|prefiro nao|(?:devo|tenho de|tenho que) recusar"
)
_CHINESE = (
    r"(?:但是?|因此|所以|恐怕|恕|您的要求|[这這][个個]\w{1,4})?(?:我们?|我們)?"
    r"(?:不能|无法|無法|不会|不會|不可以|没法|没有办法|不便|不方便|不打算)\w{0,8}?"
    r"(?:提供|帮|幫|协助|協助|回答|满足|滿足|完成|执行|支持|参与|处理|生成|创作|写|寫|做|讨论|继续|告诉|解释)|"
    r"(?:恐怕)?我(?:们|們)?(?:帮|幫)不了|(?:我们?)?(?:必须|只能)?拒绝"
)
_JAPANESE = (
    r".{0,80}(?:応え|答え|手伝い|手助け|引き受け|お受け|教え|対応|提供|協力|回答|支援|サポート|作成|案内|説明)"
    r"\w{0,12}(?:できません|出来ません|しかねます|致しません|いたしません)|"
    r".{0,40}お力になれません|(?:それ|これ)は(?:お)?できません|"
    r".{0,80}お断り(?:し|いた|致|させ)|.{0,80}拒否(?:し|いた)ます"
)
_RUSSIAN = (
    r"(?:но )?(?:я )?(?:не (?:могу|буду|смогу|стану|хочу|готов\w*) (?:\w+ ){0,3}?(?:помо|предостав|"
    r"выполн|отве[тч]|обсужд|напис|писать|дать|дела|созда|сдела|участв|продолж|рассказ|объясн|"
    r"поддерж)|не (?:в состоянии|имею права|вправе)|отказываюсь|вынужден\w* отказ)|"
    r"это не то, с чем я могу"  # noqa: RUF001
)

REFUSAL_ELSEWHERE = (
    f"{_GERMAN}|{_FRENCH}|{_SPANISH}|{_ITALIAN}|{_PORTUGUESE}|{_CHINESE}|{_JAPANESE}|{_RUSSIAN}"
)
REGRET_ELSEWHERE = (
    r"es tut mir leid|tut mir leid|entschuldig|leider\b|(?:je suis )?(?:desole|navre)|"
    r"malheureusement|lo siento|lamentablemente|lamento|mi dispiace|spiacente|purtroppo|desculpe|"
    r"sinto muito|infelizmente|(?:非常|很)?抱歉|对不起|對不起|申し訳|すみません|ごめんなさい|"
    r"извините|простите|к сожалению|мне жаль"
)
