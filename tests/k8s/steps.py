"""The steps of the test, in order."""

import change
import install
import look
import remove

STEPS = [
    install.contexts,
    install.kubelet,
    install.redis,
    install.guide,
    install.helm_test,
    install.sides,
    change.scale,
    change.upgrade,
    change.passwords,
    change.certificates,
    change.drain,
    look.policies,
    look.monitoring,
    look.bad,
    remove.uninstall,
    remove.scenario_1,
    remove.scenario_2,
    remove.clean,
    remove.held,
]
